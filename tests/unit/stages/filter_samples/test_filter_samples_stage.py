"""Which images each filter leaves out, and that every later reader sees the others only."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from cluster.item_progress import begin_item
from cluster.mapping import Growing, Items, MakeWorker, WorkerResources
from pipeline.config.schema import RunConfig
from stages.contract.documents import Manifest
from stages.contract.errors import ArtifactError, InputFault
from stages.contract.runner import run_stage
from stages.contract.stage import StageSummary
from stages.filter_samples.config import FilterSamplesConfig
from stages.filter_samples.stage import run
from stages.formats.captions import CaptionsConfig, select_captioned
from stages.formats.embeddings.reader import load_captioned_rows, load_image_rows, load_keys, shard_rows
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings
from stages.formats.filtered import FilterRecord, filter_inputs
from stages.storage.artifact import Output
from stages.training.images.dataset import EmbeddedImages
from tests.factories import folder_digests, interrupt_after, make_context
from tests.unit.stages import encoded

DIM = 8


def unit(angle: float, plane: int) -> np.ndarray:
    """Return a vector of length 3 at an angle in one of four planes."""
    vector = np.zeros(DIM)
    vector[2 * plane : 2 * plane + 2] = np.cos(angle), np.sin(angle)
    return 3 * vector


def embeddings(
    folder: Path, images: list[list[np.ndarray]], texts: dict[str, list[np.ndarray]] | None = None
) -> Output:
    """Write shards of these images; ``texts`` holds the captions of some keys."""
    output = Output(str(folder), "embed_clip", "e")
    for number, rows in enumerate(images):
        name = f"{number:05d}"
        keys = [f"{number}{row}" for row in range(len(rows))]
        found = [(texts or {}).get(key, []) for key in keys]
        first = np.array([captions[0] if captions else np.full(DIM, np.nan) for captions in found])
        extra = [(row, "more", text) for row, captions in enumerate(found) for text in captions[1:]]
        content = ShardEmbeddings(
            keys,
            ["some" if captions else None for captions in found],
            [np.array(rows)],
            EncodedCaptions([first]),
            [(row, caption) for row, caption, _ in extra],
            EncodedCaptions([np.array([text for *_, text in extra]).reshape(-1, DIM)]),
        )
        captioned = sum(bool(captions) for captions in found)
        with output.collecting():
            content.write(name, output, storage=np.dtype(np.float32), embed_dim=DIM, widths={})
            output.finish_unit(name, {"rows": len(rows), "captioned": captioned, "failures": {}})
    output.write_json("clips.json", [{"reference": n, "digest": n, "embed_dim": 4, "image_size": 8} for n in "ab"])
    return output


def filtered(source: Output, folder: Path, *, context: Any = None, **options: Any) -> tuple[StageSummary, Output]:
    output = Output(str(folder), "filter_samples", "f")
    config = FilterSamplesConfig(**options)
    summary = run_stage(run, config, inputs={"embed_clip": source}, output=output, context=context or make_context())
    return summary, output


def removed(output: Output) -> dict[str, tuple[str, str | None]]:
    tables = [pq.read_table(output.local(name)).to_pylist() for name in output.glob("removed/*.parquet")]
    return {row["key"]: (row["cause"], row["duplicate_of"]) for table in tables for row in table}


def kept_keys(source: Output, output: Output) -> list[str]:
    seen = filter_inputs({"embed_clip": source, "filter_samples": output})["embed_clip"]
    return [key for shard in shard_rows(seen) for key in load_keys(seen, shard)]


def test_captions_that_do_not_fit_are_left_out_and_the_best_of_several_counts(tmp_path: Path) -> None:
    image = np.concatenate([unit(0.0, 0)[:4], unit(0.0, 0)[:4]])  # both CLIPs see the same
    off = np.concatenate([unit(1.4, 0)[:4], unit(1.4, 0)[:4]])  # cosine 0.17
    half = np.concatenate([unit(0.0, 0)[:4], 100 * unit(1.4, 0)[:4]])  # cosines 1 and 0.17; lengths say nothing
    texts = {"00": [image], "01": [off], "03": [off, image], "04": [half]}
    source = embeddings(tmp_path / "e", [[image] * 5], texts)
    summary, output = filtered(source, tmp_path / "f", clip_score={"minimum": 0.55})
    assert removed(output) == {"01": ("low_clip_score", None)}
    assert dict(summary.counts) == {"images": 4, "captioned": 3, "removed_low_clip_score": 1}
    assert summary.metrics["kept"] == 0.8
    scores = pq.read_table(output.local("scores/scores_00000.parquet"))["clip_score"].to_pylist()
    assert scores == pytest.approx([1, np.cos(1.4), np.nan, 1, (1 + np.cos(1.4)) / 2], abs=1e-6, nan_ok=True)


def test_captions_beyond_the_fraction_remove_nothing(tmp_path: Path) -> None:
    image, off = unit(0.0, 0) + unit(0.0, 2), unit(1.5, 0) + unit(1.5, 2)
    keys = [f"0{row}" for row in range(40)]
    source = embeddings(tmp_path / "e", [[image] * 40], {key: [off] for key in keys})
    usable = CaptionsConfig(fraction=0.3)
    _, output = filtered(source, tmp_path / "f", clip_score={"minimum": 0.5}, captions=usable)
    chosen = select_captioned(keys, usable)
    assert 0 < chosen.sum() < 40
    assert set(removed(output)) == {key for key, is_usable in zip(keys, chosen, strict=True) if is_usable}


def test_the_fraction_counts_where_captions_are_read() -> None:
    few = CaptionsConfig(fraction=0.1)
    alike = [FilterSamplesConfig(near_duplicates={"minimum": 0.9}, captions=one) for one in (few, CaptionsConfig())]
    assert alike[0].identity() == alike[1].identity()
    scored = FilterSamplesConfig(clip_score={"minimum": 0.5}, captions=few)
    assert scored.identity()["captions"]["fraction"] == 0.1


def chain() -> list[list[np.ndarray]]:
    """Images on two circles: 0.1 apart are near (cosine 0.995 in one block, so 0.9975), 0.5 apart are not."""
    both = [[(0.0, 1.0)], [(0.1, 1.0)], [(0.5, 1.0)], [(0.0, 1.0)]]
    rows = [np.concatenate([unit(a, 0)[:4], unit(b, 0)[:4]]) for ((a, b),) in both]
    return [[rows[0], rows[2], rows[1]], [5 * rows[3], unit(0.3, 1) + unit(0.3, 3)]]


@pytest.mark.parametrize("block_rows", [1, 2, 100])
def test_of_near_duplicates_the_first_is_kept_whatever_the_blocks(tmp_path: Path, block_rows: int) -> None:
    source = embeddings(tmp_path / "e", chain())
    summary, output = filtered(source, tmp_path / "f", near_duplicates={"minimum": 0.997}, block_rows=block_rows)
    assert removed(output) == {"02": ("near_duplicate", "00"), "10": ("near_duplicate", "00")}
    assert kept_keys(source, output) == ["00", "01", "11"]
    assert summary.counts["removed_near_duplicate"] == 2
    _, alone = filtered(source, tmp_path / "s", near_duplicates={"minimum": 0.997, "within": "shard"})
    assert removed(alone) == {"02": ("near_duplicate", "00")}


def test_near_duplicates_are_those_that_a_plain_comparison_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, DIM)).round(1)
    images[40:] = images[:20] + 0.05 * rng.normal(size=(20, DIM))
    source = embeddings(tmp_path / "e", [list(images[n::3]) for n in range(3)])
    _, output = filtered(source, tmp_path / "f", near_duplicates={"minimum": 0.9}, block_rows=7)
    ordered = np.concatenate([images[n::3] for n in range(3)]).astype(np.float32).astype(np.float64)
    blocks = [b / np.linalg.norm(b, axis=1, keepdims=True) for b in np.split(ordered, 2, axis=1)]
    cosines = (blocks[0] @ blocks[0].T + blocks[1] @ blocks[1].T) / 2
    expected = [row for row in range(60) if row and cosines[row, :row].max() >= 0.9]
    keys = [f"{n}{row}" for n in range(3) for row in range(20)]
    assert 5 < len(expected) < 55
    assert set(removed(output)) == {keys[row] for row in expected}


def test_a_cosine_of_1_is_that_of_every_copy(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(40, DIM))
    source = embeddings(tmp_path / "e", [list(images), list(images)])
    summary, output = filtered(source, tmp_path / "f", near_duplicates={"minimum": 1.0})
    assert summary.counts["removed_near_duplicate"] == 40
    assert kept_keys(source, output) == [f"0{row}" for row in range(40)]


@pytest.mark.parametrize("name", ["key", "cause", "clip_score", "low_clip_score", "near_duplicate"])
def test_a_head_does_not_take_the_name_of_another_column(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError, match=f"heads: found the name {name}, which the table of scores has"):
        FilterSamplesConfig(heads=[{"name": name, "path": tmp_path, "minimum": 0.0}])


def test_an_original_that_another_filter_removed_takes_no_duplicate_with_it(tmp_path: Path) -> None:
    image, off = unit(0.0, 0) + unit(0.0, 2), unit(1.5, 0) + unit(1.5, 2)
    source = embeddings(tmp_path / "e", [[image, image]], {"00": [off], "01": [image]})
    _, output = filtered(source, tmp_path / "f", clip_score={"minimum": 0.5}, near_duplicates={"minimum": 0.99})
    assert removed(output) == {"00": ("low_clip_score", None)}


def save_head(path: Path, *layers: tuple[list[list[float]], list[float]], prefix: str = "layers.") -> Path:
    tensors = {}
    for number, (weight, bias) in enumerate(layers):
        tensors[f"{prefix}{2 * number}.weight"] = np.array(weight, dtype=np.float32)
        tensors[f"{prefix}{2 * number}.bias"] = np.array(bias, dtype=np.float32)
    save_file(tensors, path)
    return path


def test_heads_score_the_embedding_of_their_clip(tmp_path: Path) -> None:
    plain = save_head(tmp_path / "plain.safetensors", ([[1.0, 0, 0, 0]], [0.0]))
    deep = save_head(
        tmp_path / "deep.safetensors", ([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]], [0.0, 0.0]), ([[2.0, 4.0]], [-1.0])
    )
    images = [np.concatenate([[3.0, 4, 0, 0], [x, 0, 0, 0]]) for x in (0.5, -0.5)]
    source = embeddings(tmp_path / "e", [images])
    heads = [
        {"name": "first", "path": plain, "minimum": 0.0},
        {"name": "raw", "path": plain, "normalise": False, "maximum": 10.0},
        {"name": "second", "path": deep, "model": 1, "normalise": False, "activation": "relu", "maximum": 0.5,
         "sigmoid": True},
    ]  # fmt: skip
    _, output = filtered(source, tmp_path / "f", heads=heads)
    scores = pq.read_table(output.local("scores/scores_00000.parquet")).to_pydict()
    assert scores["first"] == pytest.approx([0.6, 0.6])
    assert scores["raw"] == pytest.approx([3.0, 3.0])
    assert scores["second"] == pytest.approx([1 / (1 + np.exp(0)), 1 / (1 + np.exp(-1))])  # relu: 2 x 0.5 or 4 x 0.5
    assert removed(output) == {"01": ("second", None)}


def test_a_head_for_another_clip_is_refused(tmp_path: Path) -> None:
    source = embeddings(tmp_path / "e", chain())
    wide = save_head(tmp_path / "wide.safetensors", ([[1.0] * 5], [0.0]))
    with pytest.raises(InputFault, match=r"expected weight \[out, 4\] and bias"):
        filtered(source, tmp_path / "f", heads=[{"name": "a", "path": wide, "minimum": 0}])
    two = save_head(tmp_path / "two.safetensors", ([[1.0] * 4] * 2, [0.0] * 2))
    with pytest.raises(InputFault, match="ends in 2 numbers: expected 1"):
        filtered(source, tmp_path / "f", heads=[{"name": "a", "path": two, "minimum": 0}])
    with pytest.raises(InputFault, match=r"model: found 2, but there are 2 CLIP models: allowed are 0 to 1"):
        filtered(source, tmp_path / "f", heads=[{"name": "a", "path": two, "model": 2, "minimum": 0}])
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(InputFault, match="expected a safetensors file"):
        filtered(source, tmp_path / "f", heads=[{"name": "a", "path": tmp_path / "text", "minimum": 0}])


def test_nothing_left_is_an_error_and_nothing_asked_too(tmp_path: Path) -> None:
    image = unit(0.0, 0) + unit(0.0, 2)
    source = embeddings(tmp_path / "e", [[image]], {"00": [-image]})
    with pytest.raises(InputFault, match="nothing is left of 1 images"):
        filtered(source, tmp_path / "f", clip_score={"minimum": 0.1})
    with pytest.raises(ValidationError, match="none of clip_score, heads and near_duplicates is set"):
        FilterSamplesConfig()
    with pytest.raises(ValidationError, match="neither minimum nor maximum"):
        FilterSamplesConfig(heads=[{"name": "a", "path": tmp_path}])


@pytest.mark.parametrize("units", [1, 3])
def test_an_interrupted_filter_goes_on_to_the_same_bytes(tmp_path: Path, units: int) -> None:
    source = embeddings(tmp_path / "e", chain())
    options = {"near_duplicates": {"minimum": 0.997}, "clip_score": {"minimum": 0.0}}
    filtered(source, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        filtered(
            source, tmp_path / "other store" / "cut", context=make_context(map_shards=interrupt_after(units)), **options
        )
    filtered(source, tmp_path / "other store" / "cut", **options)
    assert folder_digests(tmp_path / "other store" / "cut") == folder_digests(tmp_path / "whole")


def test_what_a_lost_worker_has_scored_or_recorded_is_not_made_again(tmp_path: Path) -> None:
    """Each item comes twice, the second time as one at which a worker was lost before it replied."""
    source, again = embeddings(tmp_path / "e", chain()), []
    options = {"near_duplicates": {"minimum": 0.997}, "clip_score": {"minimum": 0.0}}

    def map_items(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
        worker = make_worker()
        assert not isinstance(items, Growing)
        for item in items:
            begin_item()
            worker(item)
            before = written(tmp_path / "f")
            begin_item(is_given_again=True)
            yield worker(item)
            again.append(written(tmp_path / "f") - before)
        begin_item()

    filtered(source, tmp_path / "f", context=make_context(map_shards=map_items), **options)
    assert len(again) >= 2
    assert not any(again)


def written(folder: Path) -> set[tuple[Path, int, int]]:
    """Return what identifies each file that was written."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {(path, one.st_ino, one.st_mtime_ns) for path, one in stats.items()}


@pytest.mark.parametrize(("within", "reused"), [("all", 1), ("shard", 3)])
def test_shards_that_were_filtered_before_are_taken_over_to_the_same_bytes(
    tmp_path: Path, within: str, reused: int
) -> None:
    images = [[unit(0.1 * shard + angle, shard % 3) for angle in (0.0, 0.01, 0.5)] for shard in range(4)]
    options = {"near_duplicates": {"minimum": 0.997, "within": within}}
    first = embeddings(tmp_path / "sources" / "first", images)
    filtered(first, tmp_path / "store" / "first", **options)
    grown = embeddings(tmp_path / "sources" / "grown", [*images, [unit(0.0, 0), unit(1.0, 3)]])
    summary, output = filtered(grown, tmp_path / "store" / "grown", **options)
    assert summary.counts["reused_shards"] == 4
    _, anew = filtered(grown, tmp_path / "elsewhere" / "grown", **options)
    kinds = ("kept/", "removed/", "scores/", "units/")
    made = [{n: d for n, d in folder_digests(Path(one.uri)).items() if n.startswith(kinds)} for one in (output, anew)]
    assert made[0] == made[1]
    assert len(made[0]) == 4 * 5

    changed = embeddings(tmp_path / "sources" / "changed", [images[0], images[1][:2], *images[2:]])
    summary, _ = filtered(changed, tmp_path / "store" / "changed", **options)
    assert summary.counts["reused_shards"] == reused  # of those after it, duplicates may have had their original in it
    other = filtered(changed, tmp_path / "store" / "other", near_duplicates={"minimum": 0.9, "within": within})
    assert "reused_shards" not in other[0].counts


def test_all_readers_see_the_kept_rows_only(tmp_path: Path) -> None:
    image = [unit(angle, plane) + unit(angle, 3 - plane) for plane, angle in ((0, 0.0), (1, 0.3), (0, 0.01), (1, 1.5))]
    texts = {"00": [image[0], image[1]], "02": [image[2]], "03": [image[3], image[0]]}
    source = embeddings(tmp_path / "e", [image], texts)
    _, output = filtered(source, tmp_path / "f", near_duplicates={"minimum": 0.99})
    seen = pickle.loads(pickle.dumps(filter_inputs({"embed_clip": source, "filter_samples": output})))["embed_clip"]
    assert shard_rows(seen) == {"00000": 3}
    assert load_keys(seen, "00000") == ["00", "01", "03"]
    assert np.array_equal(load_image_rows(seen, "00000"), load_image_rows(source, "00000")[[0, 1, 3]])
    captioned = load_captioned_rows(seen, "00000", CaptionsConfig())
    assert captioned.keys == ["00", "03"]
    assert captioned.num_captions.tolist() == [2, 2]
    whole = load_captioned_rows(source, "00000", CaptionsConfig())
    assert np.array_equal(captioned.text, whole.text[[0, 1, 3, 4]])
    assert captioned.state_rows.tolist() == whole.state_rows[[0, 1, 3, 4]].tolist()


def test_decoders_read_images_and_embeddings_of_kept_rows(tmp_path: Path) -> None:
    shards = encoded.make_shards(tmp_path / "shards")
    source = encoded.make_embeddings(tmp_path / "e")
    kept = Output(str(tmp_path / "f"), "filter_samples", "f")
    for number, size in enumerate(encoded.SIZES):
        with kept.writing(f"kept/kept_{number:05d}.npy") as path, path.open("wb") as file:
            np.save(file, np.arange(1, size, 2))
        FilterRecord(rows=size // 2, captioned=0, removed={}).finish(kept, f"{number:05d}")
    about = {"stage": "filter_samples", "fingerprint": "k", "code_version": 1, "config": {}, "summary": StageSummary(0)}
    Manifest.model_validate(about | {"inputs": {"embed_clip": "b"}}).write(kept)
    seen = filter_inputs({"embed_clip": source, "filter_samples": kept})["embed_clip"]
    data = EmbeddedImages(shards, seen, resolution=encoded.SIDE, cache_bytes=1 << 20)
    assert data.sizes == [size // 2 for size in encoded.SIZES]
    indices = np.array([[1, 0], [0, 2], [1, 3]])
    images, rows = data.rows(indices)
    expected = [int(key) for key in data.keys(indices)]
    assert expected == [21, 8, 15]  # the rows of a shard lie reversed; every second one is kept
    assert [tuple(image[0, 0]) for image in images] == [encoded.color_of(row) for row in expected]
    colors = np.array([[*(c / 255 for c in encoded.color_of(row)), 1.0] for row in expected])
    np.testing.assert_allclose(rows, colors, atol=1e-3)


def test_embeddings_of_another_run_are_not_filtered(tmp_path: Path) -> None:
    source = embeddings(tmp_path / "e", chain())
    _, output = filtered(source, tmp_path / "f", near_duplicates={"minimum": 0.997})
    other = Output(source.uri, "embed_clip", "another")
    with pytest.raises(ArtifactError, match="says what to keep of embed_clip e, but the embeddings are another"):
        filter_inputs({"embed_clip": other, "filter_samples": output})


def test_in_the_graph_embeddings_come_with_their_filter() -> None:
    sections = {
        "download_shards": {"source": {"kind": "scenes", "num_images": 4}},
        "embed_clip": {"clip": {"models": [{"kind": "pretrained", "name": "ViT-B-16", "tag": "openai"}]}},
        "fit_gaussians": {},
    }
    plain = RunConfig.model_validate({"name": "a", **sections})
    assert plain.inputs_of(plain.stages()["fit_gaussians"]) == ("embed_clip",)
    config = RunConfig.model_validate({"name": "a", **sections, "filter_samples": {"clip_score": {"minimum": 0.2}}})
    stages = config.stages()
    assert list(stages) == ["download_shards", "embed_clip", "filter_samples", "fit_gaussians"]
    assert config.inputs_of(stages["fit_gaussians"]) == ("embed_clip", "filter_samples")
    assert config.inputs_of(stages["filter_samples"]) == ("embed_clip",)
    assert config.inputs_of(stages["embed_clip"]) == ("download_shards",)
