"""Embeddings of captions are moved to those that the decoder has learned from, never to held-out ones."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models.priors.identity.spec import IdentityPriorSpec
from models.retrieval.model import EmbeddingIndex, joint_query
from pipeline.export.bundle import load_bundle, write_run
from pipeline.export.names import BUNDLE
from pipeline.generation.models import generate_section
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.errors import ArtifactError, InputFault
from stages.contract.runner import run_stage
from stages.contract.stage import StageSummary
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip
from stages.formats.embeddings.layout import EmbeddingsRecord
from stages.formats.filtered import FilterRecord, write_filtered
from stages.formats.splits import SplitConfig, split_numbers
from stages.generate.config import GenerateConfig
from stages.generate.retrieval import make_index
from stages.generate.stage import run
from stages.generate.worker import load_system
from stages.inference.text_to_image import TextToImageSystem
from stages.storage.artifact import Artifact, Output
from tests.factories import make_context, make_record, save_tiny_clip, save_tiny_decoder, save_tiny_prior

SIZES = (40, 25)
SPLIT = {"validation": 0.2, "test": 0.2}
PROMPTS = [f"a red star {number}" for number in range(6)]


@dataclasses.dataclass(frozen=True)
class World:
    clip: Path
    inputs: dict[str, Artifact]

    def config(self, **fields: Any) -> GenerateConfig:
        clip = ClipConfig(models=(FolderClip(kind="folder", path=self.clip),))
        usual = {"prior": {"num_steps": 2}, "decoder": {"num_steps": 2}, "split": SPLIT, "retrieval": {}}
        prompts = {"prompts": {"kind": "list", "texts": PROMPTS}}
        return GenerateConfig.model_validate({"clip": clip} | usual | prompts | fields)


def rows_of(shard: int) -> np.ndarray:
    return np.random.default_rng(shard).normal(size=(SIZES[shard], 16)).astype(np.float16)


def keys_of(shard: int) -> list[str]:
    return [f"{shard}-{row:04d}" for row in range(SIZES[shard])]


def write_embeddings(folder: Path, clip: Path) -> Output:
    output = Output(str(folder), "embed_clip", "e0")
    for shard, size in enumerate(SIZES):
        name = f"{shard:05d}"
        with output.writing(f"img_emb/img_emb_{name}.npy") as path, path.open("wb") as file:
            np.save(file, rows_of(shard))
        with output.writing(f"metadata/metadata_{name}.parquet") as path:
            pq.write_table(pa.table({"key": keys_of(shard), "has_caption": [False] * size}), path)
        EmbeddingsRecord(rows=size, captioned=0, failures={}).finish(output, name)
    identities = ClipEncoder(ClipConfig(models=(FolderClip(kind="folder", path=clip),))).identities
    output.write_json("clips.json", identities.to_json())
    return output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    clip = save_tiny_clip(folder / "clip")
    inputs = {
        "train_prior": save_tiny_prior(folder / "prior", clip),
        "train_decoder": save_tiny_decoder(folder / "decoder", clip),
        "embed_clip": write_embeddings(folder / "embeddings", clip),
    }
    return World(clip, inputs)


def trained_on(kept: dict[int, np.ndarray] | None = None) -> np.ndarray:
    """Return the embeddings of images that the split trains on."""
    parts = []
    for shard in range(len(SIZES)):
        is_train = split_numbers(keys_of(shard), SplitConfig.model_validate(SPLIT)) >= 0.4
        if kept is not None:
            is_train &= np.isin(np.arange(SIZES[shard]), kept[shard])
        parts.append(rows_of(shard)[is_train])
    return np.concatenate(parts)


def test_the_index_holds_what_is_trained_on_and_nothing_that_is_held_out(world: World) -> None:
    made = make_index(world.config(), world.inputs)
    assert made is not None
    assert 20 < len(trained_on()) < 60
    assert np.array_equal(made.index.rows.numpy(), trained_on())
    assert make_index(world.config(retrieval=None), world.inputs) is None


def test_it_holds_nothing_that_was_filtered_out(world: World, tmp_path: Path) -> None:
    kept = {shard: np.arange(shard, size, 3) for shard, size in enumerate(SIZES)}
    output = Output(str(tmp_path), "filter_samples", "k0")
    for shard, rows in kept.items():
        write_filtered(output, f"{shard:05d}", rows, [])
        FilterRecord(rows=len(rows), captioned=0, removed={}).finish(output, f"{shard:05d}")
    manifest = {"stage": "filter_samples", "fingerprint": "k0", "code_version": 1, "config": {}}
    Manifest(**manifest, inputs={"embed_clip": "e0"}, summary=StageSummary(items=0)).write(output)
    made = make_index(world.config(), world.inputs | {"filter_samples": output})
    assert made is not None
    assert np.array_equal(made.index.rows.numpy(), trained_on(kept))


def test_a_finished_run_is_loaded_with_what_was_filtered(tmp_path: Path) -> None:
    reused = ("embed_clip", "filter_samples", "train_prior", "train_decoder")
    section = {
        "clip": {"models": [{"kind": "folder", "path": str(tmp_path)}]},
        "prompts": {"kind": "list", "texts": PROMPTS}, "retrieval": {},
    }  # fmt: skip
    config = {"name": "tiny", "generate": section, "reuse": {stage: {"config": "other.yaml"} for stage in reused}}
    plan = {stage: {"fingerprint": f"of-{stage}", "identity": {}} for stage in (*reused, "generate")}
    record = make_record(config=config, artifacts=dict.fromkeys(reused, "x"), plan=plan)
    _, inputs = generate_section(Store(str(tmp_path)), record)
    assert {name: one.fingerprint for name, one in inputs.items()} == {name: f"of-{name}" for name in reused}


def test_of_many_images_it_holds_a_sample(world: World) -> None:
    made, again = (make_index(world.config(retrieval={"num_embeddings": 9}), world.inputs) for _ in range(2))
    assert made is not None
    assert again is not None
    sampled = made.index.rows.numpy()
    assert len(np.unique(sampled, axis=0)) == 9
    assert (sampled[:, None] == trained_on()).all(axis=2).any(axis=1).all()
    assert np.array_equal(sampled, again.index.rows.numpy())


def test_a_sample_is_made_by_a_split_of_any_seed(world: World) -> None:
    config = world.config(retrieval={"num_embeddings": 9}, split=SPLIT | {"seed": -1})
    made, again = (make_index(config, world.inputs) for _ in range(2))
    assert made is not None
    assert again is not None
    assert len(np.unique(made.index.rows.numpy(), axis=0)) == 9
    assert np.array_equal(made.index.rows.numpy(), again.index.rows.numpy())


def test_images_of_prompts_are_made_of_embeddings_that_the_decoder_knows(world: World, tmp_path: Path) -> None:
    config = world.config(prompts={"kind": "scenes", "num": 5})
    output = Output(str(tmp_path), "generate", "g0")
    run(config, world.inputs, output, make_context())
    for name, are_known in {"prior": True, "text_embedding": True, "reconstruction": False}.items():
        made = np.load(output.local(f"embeddings/{name}/000000.npy"))
        known = np.isclose(made[:, None], trained_on().astype(np.float32), atol=1e-6).all(axis=2).any(axis=1)
        assert known.tolist() == [are_known] * 5, name
    first = json.loads((tmp_path / "samples.jsonl").read_text().splitlines()[0])
    assert first["settings"]["retrieval_weight"] == 1.0


def test_a_run_without_it_has_the_identity_that_it_had(world: World) -> None:
    without, given = world.config(retrieval=None), world.config()
    assert {"retrieval", "split"} & set(without.identity()) == set()
    assert {"retrieval", "split"} <= set(given.identity())
    assert "embed_clip" not in without.inputs
    assert "embed_clip" in given.inputs
    assert "retrieval_weight" not in without.sampling.flat()


def test_a_weight_is_a_setting_of_the_finished_model(world: World, tmp_path: Path) -> None:
    system = load_system(world.config(), world.inputs, device="cpu")
    exported, _ = load_bundle(bundle_in(tmp_path, world))
    seeds = list(range(len(PROMPTS)))
    moved = system.imagine(PROMPTS, seeds)
    assert torch.equal(exported.imagine(PROMPTS, seeds), moved)
    free = system.with_settings({"retrieval_weight": 0.0}).imagine(PROMPTS, seeds)
    torch.testing.assert_close(
        system.with_settings({"retrieval_weight": 0.5}).imagine(PROMPTS, seeds), (moved + free) / 2
    )
    plain = load_system(world.config(retrieval=None), world.inputs, device="cpu")
    assert torch.equal(plain.imagine(PROMPTS, seeds), free)
    assert plain.imagine([], []).shape[0] == system.encode_as_images([]).shape[0] == 0
    with pytest.raises(ValueError, match=r"retrieval\.weight: found 0\.5 with a model that holds no embeddings"):
        plain.with_settings({"retrieval_weight": 0.5})
    assert torch.equal(plain.with_settings({"retrieval_weight": 0.0}).imagine(PROMPTS, seeds), free)


def test_the_text_may_be_asked_beside_the_embedding(world: World) -> None:
    config = world.config(retrieval={"query": "embedding_and_text"})
    loaded, seeds = load_system(config, world.inputs, device="cpu"), list(range(len(PROMPTS)))
    index = EmbeddingIndex.of(torch.from_numpy(np.random.default_rng(9).normal(size=(5000, 16)).astype(np.float32)))
    system = TextToImageSystem(loaded._encoder, loaded._prior, loaded._decoder, loaded.settings, index=index)
    free = system.with_settings({"retrieval_weight": 0.0})
    imagined, text, scales = free.imagine(PROMPTS, seeds), free.encode_as_images(PROMPTS), loaded._prior.scales
    assert scales is not None
    both = index.nearest(imagined, joint_query(imagined, text, *scales))
    by_text = index.nearest(text, scales[1].normalize(text))
    assert len({tuple(found.tolist()) for found in (both, by_text, index.nearest(imagined))}) == 3
    torch.testing.assert_close(system.imagine(PROMPTS, seeds), index.rows[both].float())
    torch.testing.assert_close(system.encode_as_images(PROMPTS), index.rows[by_text].float())
    assert system.settings.flat()["retrieval_query"] == "embedding_and_text"
    assert "query" not in world.config().identity()["retrieval"]


def with_statistics(prior: Artifact, seed: int) -> Artifact:
    """Give a prior mean and standard deviation of captions of its own."""
    from safetensors.torch import load_file, save_file

    file, generator = prior.local("prior/model.safetensors"), torch.Generator().manual_seed(seed)
    state = load_file(file)
    for name in (name for name in state if "text_scale" in name):
        state[name] = torch.rand(state[name].shape, generator=generator) * 2 + 0.05
    save_file(state, file)
    return dataclasses.replace(prior, fingerprint=f"prior-{seed}")


@pytest.mark.parametrize(
    ("retrieval", "reused"),
    [({"query": "embedding_and_text"}, 5), ({"query": "embedding_and_text", "weight": 0.0}, 10)],
)
def test_captions_that_are_found_by_the_prior_are_not_taken_from_runs_of_others(
    world: World, tmp_path: Path, retrieval: dict[str, Any], reused: int
) -> None:
    config = world.config(prompts={"kind": "scenes", "num": 5}, retrieval=retrieval)
    priors = [with_statistics(save_tiny_prior(tmp_path / f"prior {seed}", world.clip), seed) for seed in (1, 2)]

    def made(number: int, folder: str) -> tuple[int, dict[str, bytes]]:
        output = Output(str(tmp_path / folder / f"g{number}"), "generate", f"g{number}")
        inputs = world.inputs | {"train_prior": priors[number]}
        summary = run_stage(run, config, inputs=inputs, output=output, context=make_context())
        files = Path(output.uri).glob("**/*text_embedding*/**/*.*")
        contents = {str(file.relative_to(output.uri)): file.read_bytes() for file in files}
        return summary.counts.get("reused_images", 0), contents

    first, second, alone = made(0, "store"), made(1, "store"), made(1, "alone")
    assert (first[0], second[0], alone[0]) == (0, reused, 0)
    assert len(second[1]) > 5
    assert second[1] == alone[1]
    embeddings = "embeddings/text_embedding/000000.npy"
    assert (second[1][embeddings] == first[1][embeddings]) is (reused == 10)


def test_artifacts_that_may_hold_another_priors_captions_are_made_anew(world: World) -> None:
    by_prior = {"query": "embedding_and_text"}
    assert "text_embedding" in world.config(retrieval=by_prior).identity()["retrieval"]
    for same in (
        world.config(),
        world.config(retrieval={"query": "embedding"}),
        world.config(retrieval=by_prior, sets=["prior"]),
    ):
        assert "text_embedding" not in same.identity()["retrieval"]


def test_a_prior_without_statistics_is_refused(world: World) -> None:
    config = world.config(retrieval={"query": "embedding_and_text"})
    system = load_system(config, world.inputs, device="cpu")
    prior = IdentityPriorSpec(embed_dim=16).build()
    with pytest.raises(ValueError, match=r"retrieval\.query: found embedding_and_text with a prior of kind identity"):
        TextToImageSystem(system._encoder, prior, system._decoder, system.settings, index=system._index)


def bundle_in(folder: Path, world: World) -> Path:
    """Return an exported run."""
    (folder / "bundle").mkdir()
    write_run(folder / "bundle", world.config(), world.inputs, run="r")
    return folder / "bundle"


def change_index(bundle: Path, **changes: Any) -> None:
    file = bundle / "index" / "config.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({name: changes.get(name, value) for name, value in document.items()}))


@pytest.mark.parametrize("what", ["of another CLIP", "of another width", "not finite", "missing", "of nothing"])
def test_an_index_that_does_not_fit_is_refused(world: World, tmp_path: Path, what: str) -> None:
    from safetensors.torch import load_file, save_file

    bundle = bundle_in(tmp_path, world)
    weights = bundle / "index" / "model.safetensors"
    clip = json.loads((bundle / "index" / "config.json").read_text())["clip"]
    if what == "of another CLIP":
        change_index(bundle, clip=[clip[0] | {"digest": "0" * 64}])
    if what == "of another width":
        change_index(bundle, clip=[clip[0] | {"embed_dim": 17}])
    if what == "not finite":
        state = load_file(weights)
        state["rows"][3, 2] = torch.nan
        save_file(state, weights)
    if what == "missing":
        shutil.rmtree(bundle / "index")
    if what == "of nothing":
        document = json.loads((bundle / BUNDLE).read_text())
        (bundle / BUNDLE).write_text(json.dumps({name: value for name, value in document.items() if name != "index"}))
    words = {
        "of another CLIP": "train both with the same",
        "of another width": "embeddings of 16 numbers, of CLIP models with 17",
        "not finite": "numbers that are not finite",
        "missing": "index/config.json",
        "of nothing": r"retrieval\.weight",
    }
    with pytest.raises((ArtifactError, InputFault), match=words[what]):
        load_bundle(bundle)
