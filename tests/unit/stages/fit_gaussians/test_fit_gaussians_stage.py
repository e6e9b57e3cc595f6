"""fit_gaussians over shards on disk: the same bytes however the work is spread or cut short."""

import dataclasses
import io
import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cluster.mapping import Growing, Items, MakeWorker, Mapper, WorkerResources, map_in_process
from models.gaussians.kmeans import Kind, KMeansState, placed
from stages.contract.errors import ArtifactError, InputFault
from stages.contract.events import Event, Log, LoggedImage, Metrics, Progress
from stages.contract.runner import run_stage
from stages.fit_gaussians import stage as fit_gaussians
from stages.fit_gaussians.config import FitGaussiansConfig
from stages.fit_gaussians.passes import Passes
from stages.fit_gaussians.reports import BetweenPasses
from stages.fit_gaussians.sample import SampleFile, sample_rows
from stages.formats.embeddings.layout import EmbeddingsRecord
from stages.formats.embeddings.reader import image_row_blocks, load_image_rows, pick_image_rows, shard_rows
from stages.formats.filtered import FilteredEmbeddings
from stages.storage.artifact import Artifact, Output
from tests.factories import make_context

SHARDS, ROWS, DIM, NUM_GAUSSIANS, PASSES = 5, 90, 6, 7, 5


@pytest.fixture
def embeddings(tmp_path: Path) -> Output:
    return write_embeddings(tmp_path / "embeddings")


def write_embeddings(folder: Path, *, rows: int = ROWS, storage: str = "float16") -> Output:
    output = Output(str(folder), "embed_clip", "e0")
    rng = np.random.default_rng(0)
    for number in range(SHARDS):
        values = rng.normal(size=(rows + number, DIM)) * 2 + rng.normal(size=DIM) * 4
        with output.writing(f"img_emb/img_emb_{number:05d}.npy") as path, path.open("wb") as file:
            np.save(file, values.astype(storage))
        EmbeddingsRecord(rows=rows + number, captioned=0, failures={}).finish(output, f"{number:05d}")
    output.write_json("clips.json", [{"reference": "r", "digest": "d", "embed_dim": DIM, "image_size": 8}])
    return output


def fit(
    folder: Path, embeddings: Artifact, *, emit: Callable[[Event], None] = lambda event: None, **changes: Any
) -> dict[str, bytes]:
    """Run the stage and return what it published."""
    output = Output(str(folder), "fit_gaussians", "g0")
    settings = {"num_gaussians": NUM_GAUSSIANS, "max_iterations": PASSES, "tolerance": 0} | changes
    context = dataclasses.replace(make_context(), emit=emit)
    fit_gaussians.run(FitGaussiansConfig(**settings), {"embed_clip": embeddings}, output, context)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def backwards(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
    """Finish the last item first, each in a worker of its own, as a cluster may."""
    assert not isinstance(items, Growing)
    for item in reversed(items):
        yield from map_in_process(make_worker, [item], resources)


@pytest.mark.parametrize("kind", ["euclidean", "spherical"])
@pytest.mark.parametrize("last", [False, True])
def test_the_order_of_completion_changes_no_bit(embeddings: Output, kind: Kind, last: bool) -> None:
    means = torch.randn(NUM_GAUSSIANS, DIM, generator=torch.Generator().manual_seed(0))
    state, rows = KMeansState(means, torch.full((DIM,), 5.0)), shard_rows(embeddings)
    orders: tuple[Mapper, ...] = (map_in_process, backwards)
    reports: list[tuple[int, int]] = []
    one, other = (
        Passes(embeddings, rows, kind, order, WorkerResources(), lambda *how_far: reports.append(how_far))(state, last)
        for order in orders
    )
    counts = list(rows.values())
    in_order, backward = itertools.accumulate(counts), itertools.accumulate(counts[::-1])
    assert reports == [(0, done) for done in (*in_order, sum(counts), *backward)], "within each pass"
    assert torch.equal(one.counts, other.counts)
    assert torch.equal(one.first, other.first)
    assert torch.equal(one.energy, other.energy)
    assert (one.second is not None) is last
    assert one.second is None or (other.second is not None and torch.equal(one.second, other.second))
    assert int(one.counts.sum()) == sum(rows.values())
    assert one.exact is last


class SlowEmbeddings(Output):
    """Embeddings of a store that takes a while."""

    def local(self, name: str, *, record: str | None = None, may_sample: bool = True) -> Path:
        time.sleep(0.7)
        return super().local(name, record=record, may_sample=may_sample)


def test_a_slow_pass_is_reported(tmp_path: Path, embeddings: Output) -> None:
    events: list[Event] = []
    slow = SlowEmbeddings(embeddings.uri, embeddings.stage, embeddings.fingerprint)
    fit(tmp_path / "fit", slow, emit=events.append, max_iterations=2)
    total = sum(shard_rows(embeddings).values())
    noted = [event for event in events if isinstance(event, Progress) and event.note]
    within = [event for event in noted if not event.note.startswith("finds means: ")]
    assert {event.done for event in within} == {0, 1}, "in each pass, the last one too"
    for event in within:
        assert event.total == 2
        assert event.done * total < event.items < (event.done + 1) * total
        assert event.note == f"{event.items - event.done * total:,} of {total:,} embeddings"


def test_a_slow_search_for_the_first_means_is_reported(tmp_path: Path, embeddings: Output) -> None:
    events: list[Event] = []
    slow = SlowEmbeddings(embeddings.uri, embeddings.stage, embeddings.fingerprint)
    fit(tmp_path / "fit", slow, emit=events.append, max_iterations=2)
    before = list(itertools.takewhile(lambda event: isinstance(event, Progress) and bool(event.note), events))
    assert before, "before the first pass"
    total = sum(shard_rows(embeddings).values())
    for event in before:
        assert isinstance(event, Progress)
        assert (event.done, event.total, event.items) == (0, 2, 0)
        assert re.fullmatch(rf"finds means: \d+\.\d times over a sample of {total:,}", event.note)


@pytest.mark.parametrize("kind", ["euclidean", "spherical"])
def test_a_fit_killed_after_any_pass_goes_on_to_the_same_bytes(tmp_path: Path, embeddings: Output, kind: str) -> None:
    whole = fit(tmp_path / "whole", embeddings, kind=kind)
    assert set(whole) == {"gaussians.safetensors", "fit.json"}
    seen = []

    def die(event: Event) -> None:
        if isinstance(event, Metrics):
            seen.append(event.step)
            raise KeyboardInterrupt

    for _ in range(PASSES - 1):
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "cut", embeddings, kind=kind, emit=die)
    assert fit(tmp_path / "cut", embeddings, kind=kind, emit=die) == whole
    assert seen == list(range(1, PASSES))  # none twice: each run went on where the one before was stopped


def test_convergence_and_occupancy_are_logged_and_generated(tmp_path: Path, embeddings: Output) -> None:
    events: list[Event] = []
    fit(tmp_path / "g", embeddings, emit=events.append)
    metrics = [event for event in events if isinstance(event, Metrics)]
    assert [event.step for event in metrics] == list(range(1, PASSES))
    inertias = [event.values["inertia"] for event in metrics]
    assert inertias == sorted(inertias, reverse=True)
    assert all(1 <= event.values["effective_gaussians"] <= NUM_GAUSSIANS for event in metrics)
    images = {event.name: event.png for event in events if isinstance(event, LoggedImage)}
    assert set(images) == {"convergence", "occupancy"}
    assert all(Image.open(io.BytesIO(png)).size == (540, 360) for png in images.values())


@pytest.mark.parametrize("kind", ["euclidean", "spherical"])
def test_a_fit_begins_with_the_means_of_another(tmp_path: Path, embeddings: Output, kind: Kind) -> None:
    whole = FitGaussiansConfig(num_gaussians=NUM_GAUSSIANS, kind=kind, max_iterations=60, tolerance=0)
    first, second = (Output(str(tmp_path / "store" / name), "fit_gaussians", name) for name in ("first", "second"))
    run_stage(fit_gaussians.run, whole, inputs={"embed_clip": embeddings}, output=first, context=make_context())
    events: list[Event] = []
    context = dataclasses.replace(make_context(), emit=events.append)
    again = whole.model_copy(update={"grown_from": "first"})
    summary = run_stage(fit_gaussians.run, again, inputs={"embed_clip": embeddings}, output=second, context=context)
    assert summary.metrics["iterations"] <= 4  # two passes see that nothing moves, and the last one measures
    fits = [load_file(one.local("gaussians.safetensors")) for one in (first, second)]
    moved = float((fits[0]["counts"] - fits[1]["counts"]).abs().sum()) / 2
    # Spherical k-means goes by the mean of directions, and a fit holds that of the embeddings: a row may move.
    assert moved <= (0 if kind == "euclidean" else 0.01 * float(fits[0]["counts"].sum()))
    assert kind == "spherical" or torch.equal(fits[0]["means"], fits[1]["means"])
    assert any("starts from the 7 means of the last fit, artifact first" in str(one) for one in events)

    output = Output(str(tmp_path / "store" / "third"), "fit_gaussians", "third")
    for changes, words in (
        ({"num_gaussians": 5}, "has means of shape"),
        ({"grown_from": "gone"}, "is not in the store"),
    ):
        wrong = again.model_copy(update=changes)
        with pytest.raises((InputFault, ArtifactError), match=f"fit_gaussians.grown_from: .*{words}"):
            fit_gaussians.run(wrong, {"embed_clip": embeddings}, output, make_context())


def test_as_many_gaussians_as_different_embeddings(tmp_path: Path) -> None:
    embeddings = write_embeddings(tmp_path / "embeddings", rows=600, storage="float32")
    total = sum(shard_rows(embeddings).values())
    fit(tmp_path / "g", embeddings, num_gaussians=total - 1, max_iterations=2)
    counts = load_file(tmp_path / "g" / "gaussians.safetensors")["counts"]
    assert sorted(counts.tolist()) == [1] * (total - 2) + [2]


@pytest.mark.parametrize("kind", ["euclidean", "spherical"])
def test_the_sample_is_even_and_of_the_size_asked(tmp_path: Path, embeddings: Output, kind: Kind) -> None:
    rows = shard_rows(embeddings)

    def sampled(size: int, seed: int) -> SampleFile:
        path = tmp_path / f"sample-{size}-{seed}"
        return sample_rows(embeddings, rows, path, size=size, seed=seed, kind=kind)

    def read(sample: SampleFile) -> torch.Tensor:
        return torch.cat(list(sample.map(torch.clone, 7)))

    raw = torch.cat([torch.from_numpy(load_image_rows(embeddings, shard)) for shard in rows])
    whole = sampled(10_000, 0)
    assert torch.equal(read(whole), placed(raw, kind))
    torch.testing.assert_close(whole.origin, placed(raw, kind).mean(0))
    torch.testing.assert_close(whole.scale, raw.double().square().mean(0).sqrt())
    sample = read(sampled(46, 0))
    rows_of = [int((read(whole) == row).all(1).nonzero()[0, 0]) for row in sample]
    assert [row // 10 for row in rows_of] == list(range(46))  # one of each ten
    assert torch.equal(sampled(46, 0).pick(torch.tensor([40, 3, 3])), sample[[40, 3, 3]])
    assert not torch.equal(sample, read(sampled(46, 1)))


def test_all_bits_of_a_seed_count_for_first_means_and_for_those_of_gaussians_left_empty(
    tmp_path: Path, embeddings: Output
) -> None:
    seeds = [3, 3 + 2**32, 3 + 2**33, 2**32 - 1, 2**52 + 3, 2**53]
    first, refilled = set(), set()
    for seed in seeds:
        config = FitGaussiansConfig(num_gaussians=NUM_GAUSSIANS, seed=seed)  # the sample holds all embeddings
        (folder := tmp_path / str(seed)).mkdir()
        report = BetweenPasses(PASSES, sum(shard_rows(embeddings).values()), config.rows_in_sample, lambda event: None)
        begin = fit_gaussians.Initialization(config, embeddings, shard_rows(embeddings), folder, report)
        first.add(begin.state().means.numpy().tobytes())
        refilled |= {begin.refill(number, torch.zeros(1, DIM), 3).numpy().tobytes() for number in (1, 2)}
    assert (len(first), len(refilled)) == (len(seeds), 2 * len(seeds))
    for seed, words in ((-1, "greater than or equal to 0"), (2**53 + 1, "less than or equal to 9007199254740992")):
        with pytest.raises(ValueError, match=words):
            FitGaussiansConfig(seed=seed)


def test_outliers_that_the_sample_has_not_seen_are_reported(tmp_path: Path, embeddings: Output) -> None:
    name = embeddings.local("img_emb/img_emb_00003.npy")
    values = np.load(name)
    values[5] = 60_000
    np.save(name, values)
    said: list[Event] = []
    fit(tmp_path / "g", embeddings, sample_size=20, emit=said.append)
    assert any(isinstance(event, Log) and "sums were rounded" in event.message for event in said)
    np.save(name, np.delete(values, 5, axis=0)[[*range(92), 0]])
    said.clear()
    fit(tmp_path / "h", embeddings, sample_size=20, emit=said.append)
    assert not any(isinstance(event, Log) for event in said)


@pytest.mark.parametrize("rows_in_sample", [20, 1000])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, embeddings: Output, rows_in_sample: int) -> None:
    name = embeddings.local("img_emb/img_emb_00003.npy")
    values = np.load(name)
    values[5, 2] = np.inf
    np.save(name, values)
    with pytest.raises(InputFault, match="not finite"):
        fit(tmp_path / "g", embeddings, sample_size=rows_in_sample)


def test_rows_come_in_blocks_and_without_those_filtered_out(tmp_path: Path, embeddings: Output) -> None:
    values = np.load(embeddings.local("img_emb/img_emb_00002.npy")).astype(np.float32)
    blocks = [block.load() for block in image_row_blocks(embeddings, "00002", 40)]
    assert [len(block) for block in blocks] == [40, 40, 12]
    assert np.array_equal(np.concatenate(blocks), values)
    kept = Output(str(tmp_path / "kept"), "filter_samples", "k0")
    with kept.writing("kept/kept_00002.npy") as path, path.open("wb") as file:
        np.save(file, np.arange(0, 60, 2))
    filtered = FilteredEmbeddings(embeddings.uri, embeddings.stage, embeddings.fingerprint, kept)
    blocks = [block.load() for block in image_row_blocks(filtered, "00002", 40)]
    assert [len(block) for block in blocks] == [20, 10, 0]
    assert np.array_equal(np.concatenate(blocks), values[:60:2])
    assert np.array_equal(pick_image_rows(filtered, "00002", np.array([3, 1, 29])), values[[6, 2, 58]])
