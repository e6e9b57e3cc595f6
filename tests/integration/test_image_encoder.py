"""A DINOv2 in CLIP's place: stages, exported model and generation, with tiny models in the real formats."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Model

from pipeline import TextToImage
from pipeline.config.loading import load_config
from pipeline.dashboard.reader import Reader
from pipeline.dashboard.samples import Samples
from pipeline.errors import UsageError
from pipeline.export.bundle import write_run
from pipeline.plan import Plan, make_plan
from pipeline.sizing.modules import ExperimentShapes
from pipeline.store import Store
from pipeline.stored_models import with_stored_models
from stages.contract.documents import Manifest
from stages.contract.errors import InputFault
from stages.filter_samples.config import ClipScoreFilter, FilterSamplesConfig
from stages.filter_samples.worker import make_scorer
from stages.formats.captions import CaptionsConfig
from stages.formats.clips import read_clips
from stages.formats.embeddings.reader import load_image_rows, load_keys, load_text_rows, shard_rows
from stages.formats.gaussians import gaussians_shape
from stages.formats.images import decode_image, square
from stages.formats.shards import index_images, read_member, shard_tar
from stages.storage.artifact import Artifact
from stages.train_decoder.captions import CaptionRows
from tests.factories import make_record, save_tiny_dino
from tests.integration.test_growth import add_photograph
from tests.integration.test_photos import CLIP, CONFIGS, PIXELS, SMALL, run_here

WIDTH, OF_CLIP, SIDE = 12, 128, 28
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class World:
    """A store with the artifacts of an experiment whose image encoder is no longer where the experiment named it."""

    words: list[str]
    store: Store
    plan: Plan
    made: dict[str, Artifact]
    dino: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("space")
    (folder / "photographs").mkdir()
    for number in range(24):
        add_photograph(folder / "photographs", number)
    dino = save_tiny_dino(folder / "dino", width=WIDTH)
    words = [
        f"download_shards.source={{kind: folder, path: {folder / 'photographs'}}}",
        f"clip.images={{kind: vision_transformer, path: {dino}}}",
        CLIP, *SMALL, *PIXELS,
    ]  # fmt: skip
    store = Store(str(folder / "store"))
    plan = with_stored_models(plan_of(words, store), store)
    shutil.move(dino, folder / "moved")
    made = run_here(plan, store)
    shutil.move(folder / "moved", dino)
    return World(words, store, plan, made, dino)


def plan_of(words: list[str], store: Store) -> Plan:
    return make_plan(load_config(CONFIGS / "photos_pretrained_clip.yaml", words), store)


def test_images_are_embedded_by_the_encoder_and_texts_by_clip(world: World) -> None:
    embeddings, shards = world.made["embed_clip"], world.made["download_shards"]
    clips = read_clips(embeddings)
    assert [clip.encodes for clip in clips] == ["texts", "images"]
    assert (clips.block_dims, clips.text_dim) == ([WIDTH], OF_CLIP)
    shard = next(iter(shard_rows(embeddings)))
    found = load_image_rows(embeddings, shard)
    assert found.shape == (24, WIDTH)
    assert load_text_rows(embeddings, shard).shape == (24, OF_CLIP)
    tar, own = shard_tar(shards, shard), Dinov2Model.from_pretrained(world.dino).eval()
    spans = index_images(tar)
    images = [decode_image(read_member(tar, *spans[key]), where=key) for key in load_keys(embeddings, shard)]
    pixels = torch.from_numpy(np.stack([square(image, SIDE) for image in images]))
    with torch.inference_mode():
        states = own(((pixels / 255 - MEAN) / STD).permute(0, 3, 1, 2)).last_hidden_state
    assert found == pytest.approx(states[:, 0].numpy(), abs=5e-3)  # stored in half precision


def test_the_whole_experiment_is_of_that_space(world: World) -> None:
    assert gaussians_shape(world.made["fit_gaussians"])[1] == WIDTH
    spec = world.made["train_prior"].read_json("prior/config.json")["model"]
    assert (spec["kind"], spec["embed_dim"], spec["text_dim"]) == ("shifted", WIDTH, OF_CLIP)
    assert world.made["train_decoder"].read_json("decoder/config.json")["model"]["embed_dim"] == WIDTH
    shapes = ExperimentShapes(load_config(CONFIGS / "photos_pretrained_clip.yaml", world.words))
    assert (shapes.embed_dim, shapes.text_dim) == (WIDTH, OF_CLIP)
    summary = Manifest.of(world.made["evaluate"]).summary
    assert {"clip_score/conditioning", "cosine/true", "cosine/image_true"} <= summary.metrics.keys()
    by = {name: summary.protocols[measure.protocol]["clip"] for name, measure in summary.measures.items()
          if name.startswith("cosine/")}  # fmt: skip
    assert by["cosine/true"].startswith("dino")
    assert "tiny_clip" in by["cosine/image_true"]


def test_the_exported_model_has_the_encoder(world: World, tmp_path: Path) -> None:
    config, inputs = world.plan.stages["generate"].config, world.made
    folder = tmp_path / "exported"
    folder.mkdir()
    write_run(folder, config, inputs, run="space")  # type: ignore[arg-type]
    model = TextToImage.load(folder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    assert model.generate(["a photograph of 3"])[0].size == (64, 64)
    varied, other = model.vary(image)[0], model.vary(image.rotate(90))[0]
    assert np.abs(np.asarray(varied).astype(int) - np.asarray(other)).max() > 0
    assert len(model.interpolate("a photograph of 3", image, 3)) == 3
    with pytest.raises(UsageError, match=r"--instead-of.*images are embedded by another encoder \(clip.images\)"):
        model.edit(image, "a photograph of 3", instead_of="a photograph of 4")


def test_stylegan_learns_from_what_that_encoder_sees(world: World) -> None:
    network = "generator: {channels: [32], condition_dim: 16, style_dim: 16}, discriminator: {channels: [32, 32]}"
    decoder = f"{{kind: stylegan2, resolution: 32, {network}, losses: {{clip_weight: 1.0, augmentation: none}}}}"
    words = [word for word in world.words if not word.startswith("train_decoder.network")]
    words = [word for word in words if not word.startswith("train_decoder.samples")]
    few = [f"train_decoder.training.{word}" for word in ("num_steps=2", "batch_size=4", "warmup_steps=1")]
    words = [*words, f"train_decoder={decoder}", *few]
    made = run_here(plan_of(words, world.store), world.store, {"train_decoder"})
    metrics = Manifest.of(made["train_decoder"]).summary.metrics
    contrasts = [value for name, value in metrics.items() if name.endswith("clip_contrast")]
    assert contrasts, sorted(metrics)
    assert np.isfinite(contrasts).all()


def test_what_compares_texts_with_images_is_left_out_or_refused(world: World) -> None:
    plan = {name: {"fingerprint": one.fingerprint, "identity": one.identity} for name, one in world.plan.stages.items()}
    config = load_config(CONFIGS / "photos_pretrained_clip.yaml", world.words).shown()
    world.store.write_run(make_record("space-1", plan=plan, config=config))
    reader = Reader(world.store)
    samples, shard = Samples(reader), next(iter(shard_rows(world.made["embed_clip"])))
    key = samples.page("space-1", shard, 5)[0]["key"]
    shown = samples.search_image("space-1", samples.image("space-1", shard, key))["rows"]
    assert shown[0]["key"] == key
    for search in (lambda: samples.search_text("space-1", "a photograph"), lambda: samples.lowest("space-1")):
        with pytest.raises(UsageError, match="its images are embedded by another encoder than texts"):
            search()
    found = reader.findings("space-1", "embed_clip")
    titles = {block.title for block in found.blocks}
    assert "norms of image embeddings" in titles
    assert not any("cosine" in title or "caption found" in title for title in titles)
    assert any("no cosine of an image and a caption means anything" in note for note in found.notes)
    filters = FilterSamplesConfig(clip_score=ClipScoreFilter(minimum=0.1))
    with pytest.raises(InputFault, match=r"filter_samples\.clip_score: compares texts with images"):
        make_scorer(filters, world.made["embed_clip"], world.store.output("filter_samples", "f"), {})
    with pytest.raises(InputFault, match=r"train_decoder\.text: compares texts with images"):
        CaptionRows(world.made["embed_clip"], [shard], CaptionsConfig(), where="text")


@pytest.mark.parametrize(
    "prior",
    [
        "{kind: gaussian, pretraining: {num_steps: 4}}",
        "{kind: flow, source: gaussian, text_dropout: 1.0}",
        "{kind: shifted, noise_scale: 1.0, pretraining: {num_steps: 4}}",
        "{kind: projection, contrastive_weight: 0.0}",
        "{kind: shifted, distillation: {num_steps: 4, sampling_steps: 2, teacher_steps: 4}}",
    ],
)
def test_other_priors_reach_that_space(world: World, prior: str) -> None:
    words = [*world.words, f"train_prior={prior}", "train_prior.network={width: 32, num_layers: 1, num_heads: 2}"]
    words += [f"train_prior.training.{word}" for word in ("num_steps=4", "batch_size=8", "warmup_steps=1")]
    made = run_here(plan_of(words, world.store), world.store, {"train_prior"})
    metrics = Manifest.of(made["train_prior"]).summary.metrics
    assert made["train_prior"].read_json("prior/config.json")["model"]["text_dim"] == OF_CLIP
    assert np.isfinite(list(metrics.values())).all()
    assert ("cosine_true" in metrics) != ("text_dropout: 1" in prior)
