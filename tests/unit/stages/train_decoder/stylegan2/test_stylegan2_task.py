"""StyleGAN2 through the real loop, beside a real (tiny) CLIP: it trains, resumes bit by bit, saves its generator."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from cluster.training import launch_in_process
from models.decoders.sampling import DecoderSampling
from models.decoders.stylegan2.adversary import Adversary
from stages.contract.errors import ArtifactError, InputFault
from stages.contract.events import Event, LoggedImage, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip
from stages.formats.checkpoints import checkpoint_steps
from stages.formats.clips import write_clips
from stages.formats.embeddings.layout import EmbeddingsRecord
from stages.formats.model_folders import load_model_config, load_model_state
from stages.inference.loading import load_decoder
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.check import check
from stages.train_decoder.stage import run
from stages.train_decoder.stylegan2.config import StyleGan2DecoderConfig
from stages.train_decoder.stylegan2.task import StyleGan2Task, group_mean
from stages.training.task import Batch, BatchPart, RankInfo
from tests.factories import save_tiny_clip

DIM, SIDE, COUNT = 8, 16, 24


def clip_config(folder: Path) -> ClipConfig:
    return ClipConfig(models=(FolderClip(kind="folder", path=folder),))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """One shard of painted squares, with the embeddings that the CLIP beside it gives them."""
    folder = tmp_path_factory.mktemp("inputs")
    encoder = ClipEncoder(clip_config(save_tiny_clip(folder / "clip", embed_dim=DIM, image_size=SIDE)))
    shards, embedded = Output(str(folder / "s"), "download_shards", "a"), Output(str(folder / "e"), "embed_clip", "b")
    images = [paint(row) for row in range(COUNT)]
    with shards.writing("shards/00000.tar") as path, tarfile.open(path, "w") as tar:
        for row, image in enumerate(images):
            add_image(tar, f"{row:05d}.png", image)
    with embedded.writing("metadata/metadata_00000.parquet") as path:
        pq.write_table(pa.table({"key": [f"{row:05d}" for row in range(COUNT)]}), path)
    with embedded.writing("img_emb/img_emb_00000.npy") as path, path.open("wb") as file:
        np.save(file, encoder.encode_images(images).numpy())
    shards.finish_unit("00000", {"rows": COUNT})
    EmbeddingsRecord(rows=COUNT, captioned=0, failures={}).finish(embedded, "00000")
    write_clips(embedded, encoder.identities)
    return {"download_shards": shards, "embed_clip": embedded}


@pytest.fixture(scope="module")
def clip_folder(inputs: dict[str, Artifact]) -> Path:
    return Path(inputs["embed_clip"].uri).parent / "clip"


def paint(row: int) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), (row * 37 % 256, row * 91 % 256, row * 53 % 256))
    image.paste((255, 255, 255), (row % 8, row % 5, row % 8 + 6, row % 5 + 8))
    return image


def add_image(tar: tarfile.TarFile, name: str, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    member = tarfile.TarInfo(name)
    member.size = buffer.tell()
    buffer.seek(0)
    tar.addfile(member, buffer)


def config(clip_folder: Path, **changes: Any) -> StyleGan2DecoderConfig:
    network = {"channels": [8, 8], "patch_size": 2}
    sections: dict[str, Any] = {
        "kind": "stylegan2",
        "resolution": SIDE,
        "clip": {"models": [{"kind": "folder", "path": clip_folder}]},
        "generator": network | {"latent_dim": 4, "style_dim": 8, "condition_dim": 8, "layer_noise": True},
        "discriminator": network | {"feature_dim": 8},
        "losses": {"r1_interval": 2, "path_weight": 1.0, "path_interval": 3, "embedding_noise": 0.3,
                   "augmentation": "adaptive", "augmentation_probability": 0.2, "augmentation_images": 400},
        "training": {"num_steps": 8, "batch_size": 4, "warmup_steps": 1, "log_interval": 1, "ema_decay": 0.5,
                     "checkpoint_interval": 3, "precision": "float32", "schedule": "constant"},
        "samples": {"num_images": 3},
    }  # fmt: skip
    return StyleGan2DecoderConfig.model_validate(sections | changes)


def train(inputs: dict[str, Artifact], folder: Path, settings: StyleGan2DecoderConfig) -> list[Event]:
    events: list[Event] = []
    context = StageContext(events.append, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    run(settings, inputs, output_of(folder), context)
    return events


def output_of(folder: Path) -> Output:
    return Output(str(folder), "train_decoder", "c")


def test_levels_computed_again_in_the_backward_pass_give_the_same_bits(
    inputs: dict[str, Artifact], clip_folder: Path, tmp_path: Path
) -> None:
    training = {"num_steps": 4, "batch_size": 4, "warmup_steps": 1, "precision": "float32", "log_interval": 1}
    runs = {
        again: train(
            inputs, tmp_path / str(again), config(clip_folder, training=training, gradient_checkpointing=again)
        )
        for again in (False, True)
    }
    assert logged(runs[False], "loss") == logged(runs[True], "loss")  # with R1 and path lengths, second gradients
    one, other = (load_model_state(output_of(tmp_path / str(again)), "decoder") for again in runs)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def logged(events: list[Event], name: str) -> dict[int, float]:
    return {e.step: e.values[name] for e in events if isinstance(e, Metrics) and name in e.values}


def test_it_trains_resumes_exactly_shows_and_saves(
    inputs: dict[str, Artifact], clip_folder: Path, tmp_path: Path
) -> None:
    settings = config(clip_folder)
    whole = train(inputs, tmp_path / "whole", settings)
    probability = logged(whole, "augmentation")
    assert len(set(probability.values())) > 1  # it moves
    assert {"held_out_clip_contrast", "held_out_logits_true"} <= {
        name for e in whole if isinstance(e, Metrics) for name in e.values
    }
    assert [e.step for e in whole if isinstance(e, LoggedImage)] == [8]

    cut = StyleGan2DecoderConfig.model_validate(settings.model_dump() | {"cache_gigabytes": 1.0})
    with pytest.raises(StopAsIfKilled):
        train_until(5, inputs, tmp_path / "cut", cut)
    assert checkpoint_steps(output_of(tmp_path / "cut")) == [3]
    rest = train(inputs, tmp_path / "cut", cut)
    for name in ("loss", "augmentation", "clip_contrast"):
        expected = logged(whole, name)
        assert logged(rest, name) == {step: expected[step] for step in range(4, 9)}
    one, other = (load_model_state(output_of(tmp_path / name), "decoder") for name in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not any("discriminator" in name or "clip" in name for name in one)

    saved = load_model_config(output_of(tmp_path / "whole"), "decoder")
    assert saved["kind"] == "stylegan2"
    decoder, clips = load_decoder(output_of(tmp_path / "whole"))
    assert decoder.sample(torch.randn(2, DIM), [1, 2], DecoderSampling()).shape == (2, 3, SIDE, SIDE)
    assert clips.embed_dim == DIM


class StopAsIfKilled(Exception):
    """Ends training from outside."""


def train_until(step: int, inputs: dict[str, Artifact], folder: Path, settings: StyleGan2DecoderConfig) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, Metrics) and event.step >= step:
            raise StopAsIfKilled

    context = StageContext(emit, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    run(settings, inputs, output_of(folder), context)


def prepared(task: StyleGan2Task) -> Batch:
    return task.prepare(BatchPart(0, 0, 4, 4))


def test_intervals_go_by_steps_and_not_by_samples(inputs: dict[str, Artifact], clip_folder: Path) -> None:
    task, _ = opened(inputs, config(clip_folder))
    batch, other = (task.prepare(BatchPart(3, 0, 4, 4, skipped=skipped)) for skipped in (2, 0))  # of a roll back
    assert batch["step"].tolist() == other["step"].tolist() == [3] * 4
    assert not torch.equal(batch["latent"], other["latent"])


def opened(inputs: dict[str, Artifact], settings: StyleGan2DecoderConfig) -> tuple[StyleGan2Task, torch.nn.Module]:
    task = StyleGan2Task(settings, inputs)
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    torch.manual_seed(0)
    return task, task.build_model()


def test_clip_is_frozen_and_no_part_of_the_model(inputs: dict[str, Artifact], clip_folder: Path) -> None:
    task, model = opened(inputs, config(clip_folder))
    adversary = model.adversary
    assert isinstance(adversary, Adversary)
    count = sum(p.numel() for part in (adversary.generator, adversary.discriminator) for p in part.parameters())
    assert sum(p.numel() for p in model.parameters()) == count
    batch = prepared(task)
    model(batch)["loss"].mean().backward()
    assert all(p.grad is None for p in task._encoders.clip._models[0]._model.parameters())
    assert batch["embeddings"].shape == (4, DIM)


def test_what_a_setting_leaves_out_is_not_generated(inputs: dict[str, Artifact], clip_folder: Path) -> None:
    plain = {"path_weight": 0.0, "embedding_noise": 0.0, "augmentation": "none"}
    task, _ = opened(inputs, config(clip_folder, losses=plain))
    assert set(prepared(task)) == {"images", "embeddings", "step", "latent", "noise"}


def test_another_clip_is_refused(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    other = save_tiny_clip(tmp_path / "other", seed=1, embed_dim=DIM, image_size=SIDE)
    with pytest.raises(ArtifactError, match=r"train_decoder\.clip: the CLIP models differ: .*other .*; .*clip "):
        opened(inputs, config(other))
    opened(inputs, config(other, losses={"clip_weight": 0}))  # without its loss, CLIP is not asked


def test_images_are_embedded_as_the_encoder_embeds_them(clip_folder: Path) -> None:
    encoder = ClipEncoder(clip_config(clip_folder), device="cpu")
    images = [paint(row) for row in range(3)]
    array = np.stack([np.asarray(image) for image in images])
    pixels = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(encoder.embed_images(pixels), encoder.encode_images(images), rtol=1e-3, atol=1e-4)
    leaf = torch.nn.functional.interpolate(pixels, scale_factor=2).requires_grad_()  # scaled back to the model's size
    embedded = encoder.embed_images(leaf)
    assert float(torch.cosine_similarity(embedded, encoder.embed_images(pixels)).detach().min()) > 0.9
    embedded.sum().backward()
    assert leaf.grad is not None
    assert float(leaf.grad.abs().sum()) > 0


def test_a_group_of_one_is_its_own_mean() -> None:
    assert float(group_mean(torch.tensor(0.25))) == 0.25


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"training": {"zero_stage": 3}}, "training.zero_stage is 3: allowed for stylegan2"),
        ({"training": {"compile": True}}, "training.compile is true: allowed for stylegan2"),
        (
            {"training": {"gradient_accumulation": 2}},
            "training.gradient_accumulation is 2 with stylegan2, whose losses compare .*: allowed is 1",
        ),
        ({"training": {"weight_decay": 0.1}}, "training.weight_decay is 0.1: allowed for stylegan2 is 0"),
        ({"resolution": 24}, "resolution: found 24: expected"),
        ({"losses": {"augmentation": "always"}}, "augmentation"),
    ],
)
def test_what_cannot_be_trained_is_refused(clip_folder: Path, section: dict[str, Any], message: str) -> None:
    defaults = {"generator": {}, "discriminator": {}, "resolution": 64}
    with pytest.raises(ValidationError, match=message):
        config(clip_folder, **(defaults | section))


def test_a_missing_clip_is_reported_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match="there is no folder"):
        check(config(tmp_path / "nowhere"))


def test_the_best_of_its_loss_is_refused_before_anything_starts(clip_folder: Path) -> None:
    best = {"metric": "held_out_loss", "mode": "lowest"}
    with pytest.raises(InputFault, match=r"train_decoder\.training\.best\.metric is 'held_out_loss', which"):
        check(config(clip_folder, training={"best": best}))


def test_a_training_begins_as_another_generator(inputs: dict[str, Artifact], clip_folder: Path, tmp_path: Path) -> None:
    train(inputs, tmp_path / "first", config(clip_folder))
    first = output_of(tmp_path / "first")
    settings = config(clip_folder, init_from=first.path("decoder"))
    check(settings)
    task = StyleGan2Task(settings, inputs)
    task.setup(RankInfo(0, 1, torch.device("cpu")))
    own, kept = task.decoder_of(task.build_model()).state_dict(), load_model_state(first, "decoder")
    assert all(torch.equal(own[name], kept[name]) for name in kept)
