import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from cluster.item_progress import begin_item, samples_of_item
from cluster.mapping import Growing, Items, MakeWorker, WorkerResources, map_in_process
from models.scenes.captions import read_caption
from stages.contract.errors import ArtifactError
from stages.contract.events import Event, LoggedImage, Progress
from stages.contract.runner import run_stage
from stages.contract.stage import StageSummary
from stages.encoders.config import ClipConfig, FolderClip
from stages.formats.generated_images import list_units, read_images, read_rows
from stages.formats.model_folders import load_model_config
from stages.generate.config import GenerateConfig
from stages.generate.stage import run
from stages.storage.artifact import Artifact, Output
from tests.factories import folder_digests, make_context, save_tiny_clip, save_tiny_decoder, save_tiny_prior


@dataclasses.dataclass(frozen=True)
class World:
    clip: Path
    prior: Artifact
    decoder: Artifact

    @property
    def inputs(self) -> dict[str, Artifact]:
        return {"train_prior": self.prior, "train_decoder": self.decoder}

    def config(self, **fields: object) -> GenerateConfig:
        clip = ClipConfig(models=(FolderClip(kind="folder", path=self.clip),))
        solvers = {"prior": {"num_steps": 2}, "decoder": {"num_steps": 2}}
        return GenerateConfig.model_validate({"clip": clip, **solvers, **fields})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    clip = save_tiny_clip(folder / "clip")
    return World(clip, save_tiny_prior(folder / "prior", clip), save_tiny_decoder(folder / "decoder", clip))


def generate(world: World, folder: Path, events: list[Event] | None = None, **fields: object) -> Output:
    output = Output(str(folder), "generate", "f1")
    run(world.config(**fields), world.inputs, output, make_context(events))
    return output


def generated_digests(folder: Path) -> dict[str, str]:
    """Return the digests of all files but those that say how long drawing took."""
    return {name: digest for name, digest in folder_digests(folder).items() if not name.startswith("timing/")}


def rows_of(output: Output) -> list[dict[str, object]]:
    with output.open("samples.jsonl") as file:
        return [json.loads(line) for line in file]


def test_scene_prompts_give_three_signed_sets_of_images(world: World, tmp_path: Path) -> None:
    events: list[Event] = []
    begin_item()
    output = generate(world, tmp_path, events, prompts={"kind": "scenes", "num": 5}, seed=7)
    assert samples_of_item() == 5
    rows = rows_of(output)
    assert Counter(row["set"] for row in rows) == {"prior": 5, "text_embedding": 5, "reconstruction": 5}
    first = rows[0]
    assert first["seed"] == 7
    assert set(read_caption(str(first["prompt"])).values()) <= set(map(str, dict(first["scene"]).values()))  # type: ignore[call-overload]
    with Image.open(tmp_path / str(first["file"])) as image:
        assert image.size == (32, 32)
        assert image.info["prompt"] == first["prompt"]
        assert json.loads(image.info["settings"]) == first["settings"]
        assert (image.info["seed"], image.info["run"]) == ("7", "f1")
    assert [event.name for event in events if isinstance(event, LoggedImage)] == [
        "grid_prior", "grid_text_embedding", "grid_reconstruction",
    ]  # fmt: skip
    assert (tmp_path / "grid.png").read_bytes() == next(e for e in events if isinstance(e, LoggedImage)).png
    assert [e for e in events if isinstance(e, Progress)][-1].items == 15
    with output.open("embeddings/prior/000000.npy") as file:
        assert np.load(file).shape == (5, 16)
    assert output.read_json("clips.json") == load_model_config(world.decoder, "decoder")["clip"]


@pytest.mark.parametrize("max_files", [5000, 0])
def test_controls_are_taken_from_runs_of_other_priors(
    world: World, tmp_path: Path, max_files: int, caplog: pytest.LogCaptureFixture
) -> None:
    others = dataclasses.replace(world, prior=save_tiny_prior(tmp_path / "other prior", world.clip, seed=1))

    def made(of: World, folder: Path, fingerprint: str) -> tuple[StageSummary, dict[str, str]]:
        output = Output(str(folder / fingerprint), "generate", fingerprint)
        config = of.config(prompts={"kind": "scenes", "num": 5}, max_files=max_files)
        inputs = {name: dataclasses.replace(one, fingerprint=f"{name} {one.uri}") for name, one in of.inputs.items()}
        summary = run_stage(run, config, inputs=inputs, output=output, context=make_context())
        kept = {name: digest for name, digest in generated_digests(Path(output.uri)).items() if "manifest" not in name}
        return summary, kept

    first, _ = made(world, tmp_path / "store", "one")
    second, files = made(others, tmp_path / "store", "two")
    assert "reused_images" not in first.counts
    assert second.counts["reused_images"] == 10
    assert files == made(others, tmp_path / "elsewhere", "two")[1]  # the same as where all is generated
    for damaged in (tmp_path / "store").glob("*/embeddings/reconstruction/*.npy"):
        damaged.write_bytes(b"damaged")
    third = dataclasses.replace(world, prior=save_tiny_prior(tmp_path / "third prior", world.clip, seed=2))
    made(third, tmp_path / "store", "three")
    assert "unit reconstruction-000000 is generated again" in caplog.text


def test_the_rate_of_the_decoder_is_that_of_its_sampling_alone(world: World, tmp_path: Path) -> None:
    output = Output(str(tmp_path), "generate", "f1")
    config = world.config(prompts={"kind": "scenes", "num": 5}, batch_size=4)
    begun = time.perf_counter()
    summary = run(config, world.inputs, output, make_context())
    seconds = time.perf_counter() - begun
    rate = summary.metrics["decoder/images_per_second"]
    assert rate > 15 / seconds
    spans = [json.loads(path.read_text()) for path in (tmp_path / "timing").iterdir()]
    assert sum(span["images"] for span in spans) == 15
    assert rate == pytest.approx(15 / sum(span["seconds"] for span in spans))
    assert summary.notes["decoder/images_per_second"] == "1 CPU, 4 at a time"
    again = run(config, world.inputs, output, make_context())  # nothing is left to generate
    assert again.metrics == summary.metrics


def test_the_sets_differ(world: World, tmp_path: Path) -> None:
    generate(world, tmp_path, prompts={"kind": "scenes", "num": 1})
    images = {(tmp_path / f"images/{name}/00000.png").read_bytes() for name in ("prior", "text_embedding")}
    assert len(images) == 2


def test_an_image_depends_on_its_own_prompt_and_seed_only(world: World, tmp_path: Path) -> None:
    texts = ["a red star", "a blue ring", "a small green cross"]
    generate(world, tmp_path / "three", prompts={"kind": "list", "texts": texts}, seed=4)
    generate(world, tmp_path / "one", prompts={"kind": "list", "texts": texts[1:2]}, seed=5, batch_size=1)
    images = [Image.open(tmp_path / name) for name in ("three/images/prior/00001.png", "one/images/prior/00000.png")]
    three, one = (np.asarray(image).astype(int) for image in images)
    assert np.abs(three - one).max() <= 1  # batches of other sizes round differently


def test_another_seed_gives_other_images(world: World, tmp_path: Path) -> None:
    for seed in (0, 1):
        generate(world, tmp_path / str(seed), prompts={"kind": "list", "texts": ["a red star"]}, seed=seed)
    first, second = ((tmp_path / f"{seed}/images/prior/00000.png") for seed in (0, 1))
    assert not np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second)))


def test_half_generated_sets_are_finished_to_the_same_bytes(world: World, tmp_path: Path) -> None:
    prompts = {"kind": "list", "texts": [f"a red star {number}" for number in range(70)]}
    whole = generate(world, tmp_path / "whole", prompts=prompts, sets=["text_embedding"])
    half = tmp_path / "half"
    output = generate(world, half, prompts=prompts, sets=["text_embedding"])
    output.remove("units/text_embedding-000064.json")
    output.remove("samples.jsonl")
    output.remove("images/text_embedding/00069.png")
    kept = (half / "images/text_embedding/00003.png").stat().st_mtime_ns
    generate(world, half, prompts=prompts, sets=["text_embedding"])
    assert generated_digests(half) == generated_digests(Path(whole.uri))
    assert (half / "images/text_embedding/00003.png").stat().st_mtime_ns == kept


def test_images_of_shards_are_those_of_files_whatever_makes_them(world: World, tmp_path: Path) -> None:
    prompts = {"kind": "list", "texts": [f"a red star {number}" for number in range(70)]}
    files = generate(world, tmp_path / "files", prompts=prompts, max_files=140)
    shards = generate(world, tmp_path / "shards", prompts=prompts, max_files=139)
    assert [unit.name for unit in list_units(shards)] == ["prior-000000", "text_embedding-000000"]
    assert not list((tmp_path / "shards").glob("images/*/*.png"))
    rows, others = read_rows(files), read_rows(shards)
    assert [(row.set, row.index, row.prompt, row.seed) for row in rows] == [
        (row.set, row.index, row.prompt, row.seed) for row in others
    ]
    assert np.array_equal(read_images(files, rows), read_images(shards, others))
    scattered = [others[number] for number in (139, 3, 69, 70)]
    assert np.array_equal(read_images(shards, scattered), read_images(shards, others)[[139, 3, 69, 70]])
    assert (tmp_path / "files/grid.png").read_bytes() == (tmp_path / "shards/grid.png").read_bytes()
    alone = generate(world, tmp_path / "alone", prompts={"kind": "list", "texts": ["a red star 66"]}, seed=66)
    one, many = (
        read_images(output, [row])[0].astype(int) for output, row in ((alone, read_rows(alone)[0]), (files, rows[66]))
    )
    assert np.abs(one - many).max() <= 1  # of its own seed, beyond what is sampled together
    with (tmp_path / "shards/images/prior/000000.tar").open("rb") as tar:
        samples = list(group_by_keys(tar_file_expander([{"url": "", "stream": tar}])))
    assert [sample["__key__"] for sample in samples] == [f"{number:06d}" for number in range(70)]
    assert samples[3]["txt"] == b"a red star 3"
    assert json.loads(samples[3]["json"])["seed"] == 3


def test_two_workers_generate_the_images_of_one(world: World, tmp_path: Path) -> None:
    """Each has models of its own, and takes every other unit."""
    prompts = {"kind": "list", "texts": [f"a red star {number}" for number in range(140)]}
    one = generate(world, tmp_path / "one", prompts=prompts, sets=["prior"])
    context = dataclasses.replace(make_context(), map_shards=by_two_workers)
    run(
        world.config(prompts=prompts, sets=["prior"]),
        world.inputs,
        Output(str(tmp_path / "two"), "generate", "f1"),
        context,
    )
    assert generated_digests(Path(one.uri)) == generated_digests(tmp_path / "two")


def by_two_workers(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
    assert not isinstance(items, Growing)
    for first in (1, 0):
        yield from map_in_process(make_worker, items[first::2], resources)


def test_models_of_another_clip_are_refused(world: World, tmp_path: Path) -> None:
    other = save_tiny_clip(tmp_path / "other", seed=1)
    inputs = {**world.inputs, "train_prior": save_tiny_prior(tmp_path / "prior", other)}
    config = world.config(prompts={"kind": "list", "texts": ["a red star"]})
    with pytest.raises(ArtifactError, match=r"CLIP models differ: the prior in .*other.*; the decoder in .*clip"):
        run(config, inputs, Output(str(tmp_path / "out"), "generate", "f"), make_context())
