"""Searching a run's samples: what is there by now is searched, and an image is never its own nearest."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.config.loading import load_config
from pipeline.dashboard.reader import NotThere, Reader
from pipeline.dashboard.samples import SHARDS, Samples
from pipeline.plan import make_plan
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.stage import StageSummary
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings
from stages.formats.filtered import write_filtered
from stages.formats.shards import ShardEntry, write_shard
from stages.storage.artifact import COMPLETE, Output
from tests.factories import make_record, save_tiny_clip

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
DIM = 4
SPLIT = {"validation": 0.5, "test": 0.0, "seed": 0}
PLAN = {
    "download_shards": {"fingerprint": "d", "identity": {}},
    "embed_clip": {"fingerprint": "e", "identity": {}},
    "train_prior": {"fingerprint": "p", "identity": {"split": SPLIT}},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path))
    made.open_for_writing()
    made.write_run(make_record(plan=PLAN))
    return made


def embed(output: Output, shard: str, rows: Sequence[Sequence[float]]) -> None:
    images = np.asarray(rows, dtype=np.float32)
    keys = [f"{shard}{number}" for number in range(len(rows))]
    content = ShardEmbeddings(keys, [None] * len(rows), [images], EncodedCaptions([images]))
    content.write(shard, output, storage=np.dtype(np.float32), embed_dim=len(rows[0]), widths={})
    output.finish_unit(shard, {"rows": len(rows), "captioned": 0, "failures": {}})


@pytest.fixture
def embeddings(store: Store) -> Output:
    output = store.output("embed_clip", "e")
    output.write_json("clips.json", [{"reference": "x", "digest": "0" * 64, "embed_dim": DIM, "image_size": 8}])
    return output


def test_an_image_with_a_duplicate_before_it_is_not_its_own_nearest(store: Store, embeddings: Output) -> None:
    embed(embeddings, "00000", [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [1, 0.5, 0, 0]])
    samples = Samples(Reader(store))
    for key, duplicate in (("000000", "000002"), ("000002", "000000")):
        rows = samples.search_sample("tiny-1", "00000", key)["rows"]
        assert [row["key"] for row in rows] == [duplicate, "000003", "000001"]
        assert (duplicate, rows[0]["score"]) == (duplicate, pytest.approx(1.0))


def test_what_is_embedded_meanwhile_is_searched_too(store: Store, embeddings: Output) -> None:
    embed(embeddings, "00000", [[1, 0, 0, 0], [0, 1, 0, 0]])
    samples = Samples(Reader(store))
    assert samples.near_duplicates("tiny-1", 0.9) == {"pairs": [], "searched": 2, "total": 2, "compared": 2}
    first = samples.index("tiny-1")
    assert samples.index("tiny-1") is first  # of what has not changed, nothing is read again
    embed(embeddings, "00001", [[1, 0, 0, 0]])
    found = samples.near_duplicates("tiny-1", 0.9)
    assert [[one["shard"] for one in pair["pair"]] for pair in found["pairs"]] == [["00000", "00001"]]
    assert (found["searched"], found["total"], found["compared"]) == (3, 3, 3)


def test_embeddings_of_a_finished_stage_that_are_made_again_are_searched(store: Store, embeddings: Output) -> None:
    """The second of two shards gets other embeddings, of images with other keys, and so do the Gaussians."""

    def seal(output: Output) -> None:
        output.finish_artifact({})
        output.write_bytes(COMPLETE, b"")

    def fit(mean: float) -> None:
        means, one = torch.full((1, DIM), mean), torch.ones(1, DIM)
        gaussians = store.output("fit_gaussians", "g")
        gaussians.unseal()
        with gaussians.writing("gaussians.safetensors") as path:
            save_file({"means": means, "stds": one, "counts": torch.ones(1)}, path)
        seal(gaussians)

    store.write_run(make_record(plan=PLAN | {"fit_gaussians": {"fingerprint": "g", "identity": {}}}))
    embed(embeddings, "00000", [[1, 0, 0, 0], [0, 1, 0, 0]])
    embed(embeddings, "00001", [[0, 0, 1, 0]])
    seal(embeddings)
    fit(0.0)
    samples = Samples(Reader(store))
    before = samples.index("tiny-1"), samples.projection("tiny-1")
    assert samples.near_duplicates("tiny-1", 0.9)["pairs"] == []
    fit(3.0)
    moved = samples.projection("tiny-1")
    assert not np.array_equal(moved.distances, before[1].distances)
    embeddings.set_aside(["units/00001.json"])
    embed(embeddings, "00001", [[0, 1, 0, 0]])
    seal(embeddings)
    (pair,) = samples.near_duplicates("tiny-1", 0.9)["pairs"]
    assert [one["shard"] for one in pair["pair"]] == ["00000", "00001"]
    assert samples.index("tiny-1") is not before[0]
    assert samples.projection("tiny-1") is not moved


def test_texts_are_embedded_by_a_clip_that_was_trained_again(store: Store) -> None:
    """With the same weights but for their seed, under the same fingerprint."""
    config = load_config(
        CONFIGS / "smoke.yaml", [f"store={store.uri}", "clip.models=[{kind: trained}]", "train_clip={}"]
    )
    stages = make_plan(config, store).stages
    plan = {name: {"fingerprint": one.fingerprint, "identity": dict(one.identity)} for name, one in stages.items()}
    store.write_run(make_record("trained-1", plan=plan, config=config.shown()))
    output = store.output("embed_clip", stages["embed_clip"].fingerprint)
    output.write_json("clips.json", [{"reference": "x", "digest": "0" * 64, "embed_dim": 16, "image_size": 32}])
    embed(output, "00000", np.eye(16).tolist())
    clip, samples, found = store.output("train_clip", stages["train_clip"].fingerprint), Samples(Reader(store)), []
    for seed in (0, 1, 1):
        clip.unseal()
        save_tiny_clip(Path(clip.path("clip")), seed=seed)
        clip.finish_artifact({})
        clip.write_bytes(COMPLETE, b"")
        found.append([row["score"] for row in samples.search_text("trained-1", "a red circle")["rows"]])
    assert found[0] != found[1]
    assert found[1] == found[2]


def test_what_the_filter_decides_anew_is_searched(store: Store, embeddings: Output) -> None:
    embed(embeddings, "00000", [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    store.write_run(make_record(plan=PLAN | {"filter_samples": {"fingerprint": "f", "identity": {}}}))
    samples, output = Samples(Reader(store)), store.output("filter_samples", "f")
    for kept in ([0, 1], [0, 1, 2], [0]):
        output.set_aside(["units/00000.json"])
        write_filtered(output, "00000", np.asarray(kept), [])
        output.finish_unit("00000", {"rows": len(kept), "captioned": 0, "removed": {}})
        inputs, summary = {"embed_clip": "e"}, StageSummary(items=1)
        manifest = Manifest(
            stage="filter_samples", fingerprint="f", code_version=1, config={}, inputs=inputs, summary=summary
        )
        manifest.write(output)
        output.write_bytes(COMPLETE, b"")
        assert samples.index("tiny-1").total == len(kept)


def test_leaks_count_the_rows_of_each_side_that_were_compared(store: Store, embeddings: Output) -> None:
    embed(embeddings, "00000", np.eye(DIM).tolist() * 10)
    found = Samples(Reader(store)).leaks("tiny-1", 0.99)
    assert found["compared_held_out"] + found["compared_trained"] == found["searched"] == 40
    assert (found["compared_held_out"], found["compared_trained"]) == (found["held_out"], found["trained"])
    assert min(found["held_out"], found["trained"]) > 0


def test_until_the_filter_is_finished_its_samples_are_not_known(store: Store, embeddings: Output) -> None:
    embed(embeddings, "00000", [[1, 0, 0, 0]])
    filtered = {**PLAN, "filter_samples": {"fingerprint": "f", "identity": {}}}
    store.write_run(make_record("tiny-2", plan=filtered))
    with pytest.raises(NotThere, match="filter_samples is not finished"):
        Samples(Reader(store)).near_duplicates("tiny-2", 0.9)


SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "status", "error_message", "caption")])


def write_image(output: Output, color: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(buffer, "PNG")
    row = {"key": "000", "status": "success", "error_message": None, "caption": color * 200}
    write_shard(output, "00000", [ShardEntry("000", buffer.getvalue(), row)], schema=SCHEMA, image_suffix="png")


def test_of_the_records_of_shards_that_of_the_image_alone_is_asked_for(store: Store) -> None:
    output = store.output("download_shards", "d")
    samples = Samples(Reader(store))
    write_image(output, "red")
    with pytest.raises(NotThere, match="has no shard 00000"):  # it is not recorded yet
        samples.image("tiny-1", "00000", "000")
    output.finish_unit("00000", {"rows": 1, "images": 1, "captioned": 1, "failures": {}})
    output.write_bytes("units/00001.json", b"of a shard that is damaged")
    shown = Image.open(io.BytesIO(samples.image("tiny-1", "00000", "000")))
    assert shown.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    for other in ("00002", "../d", "", "0" * 50):
        with pytest.raises(NotThere, match="has no shard"):
            samples.image("tiny-1", other, "000")


def test_a_shard_that_is_made_again_is_read_again(store: Store) -> None:
    output = store.output("download_shards", "d")
    samples = Samples(Reader(store))
    for color, value in (("red", (255, 0, 0)), ("darkorange", (255, 140, 0))):  # whose row is longer
        write_image(output, color)
        output.finish_unit("00000", {"rows": 1, "images": 1, "captioned": 1, "failures": {}})
        shown = Image.open(io.BytesIO(samples.image("tiny-1", "00000", "000")))
        assert shown.convert("RGB").getpixel((0, 0)) == value


def test_of_many_shards_the_records_of_those_shown_are_read_alone(store: Store) -> None:
    output = store.output("download_shards", "d")
    for number in range(2 * SHARDS + 5):
        record = {"rows": 1, "images": number, "captioned": 0, "failures": {}}
        output.finish_unit(f"{number:05d}", record)
    output.write_bytes("units/00000.json", b"of a shard that is damaged")
    samples = Samples(Reader(store))
    for first, last in ((1, SHARDS), (SHARDS, 2 * SHARDS - 1), (2 * SHARDS, 2 * SHARDS + 4)):
        found = samples.shards("tiny-1", first)
        assert found["shards"] == {f"{number:05d}": number for number in range(first, last + 1)}
        assert (found["first"], found["total"]) == (first, 2 * SHARDS + 5)
    assert samples.shards("tiny-1", 10**9)["shards"] == {}
