"""Hugging Face folders of strangers through the real stage: one dataset at a time, nothing outside, no crash."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from stages.contract.errors import InputFault
from stages.contract.stage import StageSummary
from stages.download_shards.check import check
from stages.download_shards.config import DownloadShardsConfig, HuggingfaceSource
from stages.download_shards.sources.dataset_layout import dataset_files
from stages.download_shards.stage import run
from stages.formats.shards import read_shard
from stages.storage.artifact import Output
from tests.factories import make_context
from tests.hostile.datasets import corrupt_offsets, save_split, table_of, write_arrow, write_parquet
from tests.hostile.tars import png


def source_of(folder: Path, **source: Any) -> HuggingfaceSource:
    return HuggingfaceSource.model_validate({"kind": "huggingface", "path": folder} | source)


def config_of(folder: Path, **source: Any) -> DownloadShardsConfig:
    given = {"kind": "huggingface", "path": folder, "caption_column": "text"} | source
    return DownloadShardsConfig.model_validate(
        {"source": given, "encode_format": "png", "min_yield": 0.0, "rows_per_shard": 3, "max_bytes": 100_000}
    )


def convert(folder: Path, out: Path, **source: Any) -> StageSummary:
    return run(config_of(folder, **source), {}, Output(str(out), "download_shards", "t"), make_context())


def found(out: Path) -> list[tuple[int, tuple[str, ...]]]:
    samples = [sample for tar in sorted((out / "shards").glob("*.tar")) for sample in read_shard(tar)]
    pixels = [Image.open(io.BytesIO(sample.image or b"")).getpixel((3, 3)) for sample in samples]
    return [(pixel[0], sample.captions) for pixel, sample in zip(pixels, samples, strict=True)]


def reds(out: Path) -> list[int]:
    return [red for red, _ in found(out)]


def failures(summary: StageSummary) -> dict[str, int]:
    return {name: count for name, count in summary.counts.items() if name.startswith(("failed_", "skipped_"))}


def test_splits_by_their_names_are_not_mixed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_parquet(folder / "data/train-00000-of-00002.parquet", [10, 20])
    write_parquet(folder / "data/train-00001-of-00002-0a1b2c.parquet", [30])
    write_parquet(folder / "data/test-00000-of-00001.parquet", [99])
    with pytest.raises(
        InputFault, match=r"several of split \(test, train\): one is read at a time: set .*source\.split"
    ):
        check(config_of(folder))
    with pytest.raises(InputFault, match=r"source\.split: found 'trian' \(nearest: train\): .* holds test, train"):
        check(config_of(folder, split="trian"))
    convert(folder, tmp_path / "out", split="train")
    assert found(tmp_path / "out") == [(10, ("caption 10",)), (20, ("caption 20",)), (30, ("caption 30",))]


NAMES = {
    "folders": ["train/0000.parquet", "validation/0000.parquet"],
    "words": ["my_train.parquet", "my_dev.parquet"],
    "cache": ["wikitext-train.arrow", "wikitext-validation.arrow"],
    "own names": ["random_split-00000-of-00001.parquet", "other_split-00000-of-00001.parquet"],
}


PARTLY = {
    "numbered": (["train-00000-of-00004", "train-00003-of-00004"], None, 2, "train-00001-of-00004.*, train-00002"),
    "hashes": (["data/train-00001-of-00002-0a1b"], None, 1, r"data/train-00000-of-00002\.parquet"),
    "other split": (["train-00000-of-00001", "test-00001-of-00002"], None, 0, ""),
    "whole": (["train-00000-of-00002-0a1b", "train-00001-of-00002-2c3d"], None, 0, ""),
    "two versions": (["train-00000-of-00001", "train-00000-of-00009"], None, 8, "train-00001-of-00009.* and 3 more"),
    "declared": (["train-00000-of-00003", "train-00002-of-00003"], "train-*", 1, "train-00001-of-00003"),
    "left out": (["train-00000-of-00003"], "train-00000*", 0, ""),
    "listed": (["a", "b"], "[a.parquet, ./b.parquet, c.parquet, d.csv]", 1, r"c\.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PARTLY)
def test_a_partly_copied_dataset_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    names, declared, count, missing = PARTLY[kind]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.parquet").touch()
    if declared is not None:
        head = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {declared}\n"
        (tmp_path / "README.md").write_text(f"---\n{head}---\n")
    if count:
        words = rf"holds \d of \d+ files .*missing_file\): {missing}.*: .*allow_missing_files"
        with pytest.raises(InputFault, match=words):
            dataset_files(source_of(tmp_path, split="train"))
    found = dataset_files(source_of(tmp_path, split="train", allow_missing_files=bool(count)))
    assert found.missing.count == count
    assert [file.stem for file in found.paths] == [name.rpartition("/")[2] for name in names if "test" not in name]


def test_images_of_a_partly_copied_dataset_are_read_and_missing_files_counted(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/train-00000-of-00003.parquet", [10])
    write_parquet(tmp_path / "in/train-00002-of-00003.parquet", [20])
    with pytest.raises(InputFault, match="train-00001-of-00003"):
        check(config_of(tmp_path / "in"))
    summary = convert(tmp_path / "in", tmp_path / "out", allow_missing_files=True)
    assert (summary.counts["missing_files"], reds(tmp_path / "out")) == (1, [10, 20])
    assert "1 of the dataset's files were not there" in summary.notes["missing files"]


def test_a_saved_dataset_without_a_listed_file_is_refused_or_counted(tmp_path: Path) -> None:
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    save_split(tmp_path / "in", [10], files=["data-00000-of-00001.arrow", *names])
    with pytest.raises(InputFault, match=r"holds 1 of 3 files .*: data-00000-of-00002\.arrow, data-00001-of"):
        check(config_of(tmp_path / "in"))
    summary = convert(tmp_path / "in", tmp_path / "out", allow_missing_files=True)
    assert (summary.counts["missing_files"], reds(tmp_path / "out")) == (2, [10])
    assert config_of(tmp_path / "in").identity() == config_of(tmp_path / "in", allow_missing_files=True).identity()


NAN = float("nan")
BLANK: dict[str, list[pa.Array]] = {
    "nan": [pa.array([NAN, NAN], pa.float64()), pa.array([NAN], pa.float32())],
    "null and nan": [pa.nulls(2), pa.array([None], pa.float64())],
    "blank texts": [pa.array([" ", None]), pa.array([""])],
}


@pytest.mark.parametrize("kind", BLANK)
def test_a_dataset_without_usable_captions_is_uncaptioned(tmp_path: Path, kind: str) -> None:
    first, second = BLANK[kind]
    write_parquet(tmp_path / "in/a.parquet", [10, 20], text=first)
    write_parquet(tmp_path / "in/b.parquet", [30], text=second)
    summary = convert(tmp_path / "in", tmp_path / "out")
    assert (summary.items, summary.counts["captioned"]) == (3, 0)
    assert found(tmp_path / "out") == [(10, ()), (20, ()), (30, ())]


def test_dates_that_python_does_not_know_become_texts_in_all_shards(tmp_path: Path) -> None:
    year_0 = -62167219200
    columns = {
        "when": pa.array([0, None, 0, 0, year_0], pa.timestamp("s")),
        "zone": pa.array([0] * 5, pa.timestamp("s", "Not/AZone")),
        "days": pa.array([[0], [2**31 - 1], None, [], [0]], pa.list_(pa.date32())),
        "fine": pa.array([0] * 5, pa.timestamp("s", "Asia/Tokyo")),
        "span": pa.array([(1, 2, 3)] * 5, pa.month_day_nano_interval()),  # for which Parquet has no type
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string()), ("taken", pa.timestamp("s"))])
    images = [{"bytes": png(red), "path": None, "taken": year_0} for red in (10, 20, 30, 40, 50)]
    table = table_of([10, 20, 30, 40, 50], **columns).set_column(0, "image", pa.array(images, image))
    write_arrow(tmp_path / "in/a.arrow", table)
    convert(tmp_path / "in", tmp_path / "out")
    assert reds(tmp_path / "out") == [10, 20, 30, 40, 50]
    tables = [pq.read_table(file).select(list(columns)) for file in sorted((tmp_path / "out/shards").glob("*.parquet"))]
    assert len(tables) == 2  # of three rows and of two
    assert len({table.schema for table in tables}) == 1
    rows = [row for table in tables for row in table.to_pylist()]
    start = "1970-01-01 00:00:00"
    assert [row["when"] for row in rows] == [start, None, start, start, "0000-01-01 00:00:00"]
    assert {row["zone"] for row in rows} == {f"{start}Z"}
    far = f"<value out of range: {2**31 - 1}>"
    assert [row["days"] for row in rows] == [["1970-01-01"], [far], None, [], ["1970-01-01"]]
    assert {row["fine"].timestamp() for row in rows} == {0}
    assert {row["span"] for row in rows} == {"[1, 2, 3]"}


@pytest.mark.parametrize("values", [[NAN, 0.5], [1.0, 2.0]])
def test_captions_that_are_numbers_are_refused(tmp_path: Path, values: list[float]) -> None:
    write_parquet(tmp_path / "in/a.parquet", [10, 20], text=[NAN, NAN])
    write_parquet(tmp_path / "in/b.parquet", [30, 40], text=values)
    with pytest.raises(InputFault, match=r"caption_column: b\.parquet: column 'text' is double: allowed are texts"):
        check(config_of(tmp_path / "in"))


def test_a_file_without_captions_beside_one_with_some_is_uncaptioned(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", [10, 20], text=[NAN, None])
    write_parquet(tmp_path / "in/b.parquet", [30])
    write_parquet(tmp_path / "in/c.parquet", [40], text=pa.nulls(1))
    summary = convert(tmp_path / "in", tmp_path / "out")
    assert summary.counts["captioned"] == 1
    assert found(tmp_path / "out") == [(10, ()), (20, ()), (30, ("caption 30",)), (40, ())]


def test_images_that_rows_name_in_hidden_folders_are_counted_and_not_read(tmp_path: Path) -> None:
    names = ["a/../b.png", ".hidden/c.png", "a/.d.png", "a/e.png"]
    for name in ("a/e.png", "b.png", ".hidden/c.png", "a/.d.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(70))
    pq.write_table(pa.table({"image": names, "text": list("abcd")}), tmp_path / "in/rows.parquet")
    summary = convert(tmp_path / "in", tmp_path / "out")
    assert failures(summary) == {"failed_hidden_file": 2}
    assert [captions for _, captions in found(tmp_path / "out")] == [("a",), ("d",)]


@pytest.mark.parametrize("kind", NAMES)
def test_splits_are_found_in_names_of_every_form(tmp_path: Path, kind: str) -> None:
    for name, red in zip(NAMES[kind], (10, 99), strict=True):
        if name.endswith(".arrow"):
            write_arrow(tmp_path / "in" / name, table_of([red]))
        else:
            write_parquet(tmp_path / "in" / name, [red])
    with pytest.raises(InputFault, match=r"holds several of split"):
        check(config_of(tmp_path / "in"))
    convert(tmp_path / "in", tmp_path / "out", split="random_split" if kind == "own names" else "train")
    assert reds(tmp_path / "out") == [10]


@pytest.mark.parametrize("names", [("en/train-00000-of-00001.parquet", "fr/train-00000-of-00001.parquet"),
                                   ("train_en.parquet", "train_fr.parquet")])  # fmt: skip
def test_languages_are_not_mixed(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, red in zip(names, (10, 99), strict=True):
        write_parquet(tmp_path / "in" / name, [red])
    with pytest.raises(InputFault, match=r"several of config_name \(en, fr\).*source\.config_name"):
        check(config_of(tmp_path / "in"))
    convert(tmp_path / "in", tmp_path / "out", config_name="en")
    assert reds(tmp_path / "out") == [10]


def test_a_saved_dataset_dict_is_read_by_its_split(tmp_path: Path) -> None:
    for split, red in (("train", 10), ("test", 99)):
        save_split(tmp_path / "in" / split, [red], split=split)
    (tmp_path / "in/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(InputFault, match=r"several of split \(train, test\)"):
        check(config_of(tmp_path / "in"))
    convert(tmp_path / "in", tmp_path / "out", split="train")
    assert reds(tmp_path / "out") == [10]
    with pytest.raises(InputFault, match=r"source\.split: found 'test': .* holds the split train"):
        check(config_of(tmp_path / "in/train", split="test"))


@pytest.mark.parametrize("name", ["../out.arrow", "/tmp/out.arrow", "link.arrow", "a/../../out.arrow"])
def test_files_outside_the_folder_are_not_read(tmp_path: Path, name: str) -> None:
    outside = write_arrow(tmp_path / "out.arrow", table_of([99]))
    folder = save_split(tmp_path / "in", [10], files=[name])
    (folder / "link.arrow").symlink_to(outside)
    with pytest.raises(InputFault, match=r"leads out of the folder \(outside_folder\)"):
        check(config_of(folder))
    linked = tmp_path / "linked"
    write_parquet(linked / "a.parquet", [10])
    (linked / "b.parquet").symlink_to(write_parquet(tmp_path / "b.parquet", [99]))
    with pytest.raises(InputFault, match=r"b\.parquet leads out of the folder"):
        check(config_of(linked))


STATES = {
    "deep": "[" * 100_000, "no json": "{", "list": "[]", "no files": '{"_data_files": 3}',
    "empty": '{"_data_files": []}', "number": '{"_data_files": [7]}',
    "fifo": '{"_data_files": [{"filename": "fifo.arrow"}]}',
    "nul": '{"_data_files": [{"filename": "a\\u0000b"}]}',
}  # fmt: skip


@pytest.mark.parametrize("kind", STATES)
def test_odd_documents_are_refused(tmp_path: Path, kind: str) -> None:
    folder = save_split(tmp_path / "in", [10])
    os.mkfifo(folder / "fifo.arrow")
    (folder / "state.json").write_text(STATES[kind])
    with pytest.raises(InputFault, match=r"download_shards\.source\.path: .*in"):
        check(config_of(folder))
    (folder / "dataset_dict.json").write_text(STATES[kind])
    with pytest.raises(InputFault, match=r"download_shards\.source\.path: .*in"):
        check(config_of(folder))


def test_images_are_bytes_paths_or_both(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(png(99))
    (folder / "a.png").write_bytes(png(10))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "large.png").write_bytes(b"\0" * 200_000)
    os.mkfifo(folder / "fifo.png")
    paths = ["a.png", "link.png", "../secret.png", "fifo.png", "large.png", "gone.png", "nul\0.png", None]
    pq.write_table(pa.table({"image": paths, "text": ["x"] * 8}), folder / "a.parquet")
    summary = convert(folder, tmp_path / "out")
    assert reds(tmp_path / "out") == [10]
    assert failures(summary) == {
        "failed_file_too_large": 1, "failed_missing_file": 2, "failed_not_a_file": 1, "failed_outside_folder": 3,
    }  # fmt: skip
    for name, kind in (("plain", pa.binary()), ("large", pa.large_binary())):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"image": pa.array([png(20)], kind), "text": ["x"]}), tmp_path / name / "a.parquet")
        convert(tmp_path / name, tmp_path / f"out-{name}")
        assert reds(tmp_path / f"out-{name}") == [20]


SHAPES = {
    "images": ("image", pa.array([[png(10)]])),
    "number": ("image", pa.array([1])),
    "struct": ("text", pa.array([{"en": "a", "fr": "b"}])),
    "structs": ("text", pa.array([[{"text": "a"}]])),
    "map": ("text", pa.array([[("en", "a")]], pa.map_(pa.string(), pa.string()))),
    "numbers": ("text", pa.array([[1, 2]])),
}


def test_names_of_files_are_shown_as_text(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a\x1b[31m b.parquet", [20])
    convert(tmp_path / "in", tmp_path / "out")
    assert reds(tmp_path / "out") == [20]
    write_parquet(tmp_path / "x.parquet", [10]).rename(tmp_path / "in" / os.fsdecode(b"caf\xe9.parquet"))
    with pytest.raises(InputFault, match=r"in/caf\\udce9\.parquet cannot be read: .*: mend or remove it"):
        check(config_of(tmp_path / "in"))


@pytest.mark.parametrize("kind", SHAPES)
def test_columns_of_other_shape_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    name, column = SHAPES[kind]
    table = table_of([10])
    write_arrow(tmp_path / "in/a.arrow", table.set_column(table.column_names.index(name), name, column))
    key = {"image": "image_column", "text": "caption_column"}[name]
    with pytest.raises(InputFault, match=rf"source\.{key}: a\.arrow: column '{name}' is .*: allowed are"):
        check(config_of(tmp_path / "in"))


def test_files_of_different_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", [10, 20], year=[1, 2])
    write_parquet(tmp_path / "in/b.parquet", [30, 40])
    convert(tmp_path / "in", tmp_path / "out")
    assert reds(tmp_path / "out") == [10, 20, 30, 40]
    rows = [
        row for path in sorted((tmp_path / "out/shards").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    assert [row["year"] for row in rows] == [1, 2, None, None]
    write_parquet(tmp_path / "in/b.parquet", [30], year=["x"])
    with pytest.raises(InputFault, match=r"b\.parquet: column year is string, but int64 in a\.parquet"):
        convert(tmp_path / "in", tmp_path / "out2")


@pytest.mark.parametrize("value", [2**31 - 1, -5, 10_000_000])
def test_corrupt_offsets_cost_their_rows_and_no_process(tmp_path: Path, value: int) -> None:
    folder = tmp_path / "in"
    corrupt_offsets(folder / "data-0.arrow", table_of(range(10, 17)), value)
    write_arrow(folder / "data-1.arrow", table_of([100, 110]))
    summary = convert(folder, tmp_path / "out")
    assert summary.counts["rows"] == 9
    assert set(failures(summary)) == {"failed_unreadable_file"}
    assert reds(tmp_path / "out")[-1] == 110
    assert set(reds(tmp_path / "out")) < {*range(10, 17), 100, 110}


def test_a_file_that_is_no_arrow_is_named(tmp_path: Path) -> None:
    for name in ("a.arrow", "a.parquet"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(b"PAR1" + b"\xff" * 1000 + b"PAR1")
        with pytest.raises(InputFault, match=rf"{name}.*cannot be read: {name}"):
            check(config_of(folder))


def test_parquet_rows_of_one_shard_are_read_alone(tmp_path: Path) -> None:
    """Row groups before those of a shard are skipped, so that a large file is not read for each of its shards."""
    table = table_of(range(60))
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/a.parquet", row_group_size=5)
    convert(tmp_path / "in", tmp_path / "out")
    assert reds(tmp_path / "out") == list(range(60))


def test_checking_needs_no_torch() -> None:
    code = "import sys, stages.download_shards.sources.huggingface; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


@pytest.mark.parametrize("kind", ["folder", "webdataset", "url_list", "huggingface"])
def test_file_addresses_are_paths_of_this_machine(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    given = {"kind": kind, "path": f"file://{tmp_path}/in"}
    source = DownloadShardsConfig.model_validate({"source": given}).source
    assert str(source.path) == f"{tmp_path}/in"
    if kind != "huggingface":
        for address in (f"dir::file://{tmp_path}/in", f"simplecache::file://{tmp_path}/in", "zip://a::local:///b.zip"):
            with pytest.raises(ValidationError, match="allowed are a path of this machine as it is"):
                DownloadShardsConfig.model_validate({"source": given | {"path": address}})
