"""Tables of one list that differ: captions stay texts or lists of texts, and no value loses anything."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.download_shards.config import FolderSource, UrlListSource
from stages.download_shards.sources.folder import list_folder
from stages.download_shards.sources.url_list import read_url_list

BATCH = 65_536  # lines that are read together
LIST = ["two cats", "cats"]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("is_list_last", [True, False])
def test_captions_of_both_forms_stay_captions_across_a_batch_boundary(tmp_path, is_list_last):
    first, last = ("one dog", LIST) if is_list_last else (LIST, "one dog")
    captions = [first, *["x"] * (BATCH - 2), None, last, None, " "]
    write_lines(tmp_path / "x.jsonl", ({"url": f"http://a/{n}", "c": text} for n, text in enumerate(captions)))
    source = UrlListSource(kind="url_list", path=str(tmp_path / "x.jsonl"), caption_column="c")
    found = read_url_list(source).select(["caption", "captions"]).to_pylist()
    forms = {"one dog": ("one dog", ["one dog"]), str(LIST): ("two cats", LIST)}
    pairs = [(row["caption"], row["captions"]) for row in found]
    assert (pairs[0], pairs[BATCH]) == (forms[str(first)], forms[str(last)])
    assert [pairs[at] for at in (1, BATCH - 1, BATCH + 1, BATCH + 2)] == [("x", ["x"]), *[(None, None)] * 3]


def write_metadata(folder, form, rows):
    folder.mkdir()
    records = [{"file_name": name, "text": text} for name, text in rows]
    match form:
        case "csv":
            lines = ["file_name,text", *(f"{name},{text or ''}" for name, text in rows)]
            (folder / "metadata.csv").write_text("\n".join(lines))
        case "jsonl":
            write_lines(folder / "metadata.jsonl", records)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(records), folder / "metadata.parquet")
    for name, _ in rows:
        (folder / name).write_bytes(b"image")


@pytest.mark.parametrize("folders", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("texts", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("lists", ["jsonl", "parquet"])
def test_captions_of_both_forms_stay_captions_in_several_metadata_files(tmp_path, folders, texts, lists):
    of_texts, of_lists = folders
    write_metadata(tmp_path / of_texts, texts, [("1.jpg", "one dog"), ("2.jpg", None)])
    write_metadata(tmp_path / of_lists, lists, [("3.jpg", LIST), ("4.jpg", None), ("5.jpg", ["five"])])
    rows, _ = list_folder(FolderSource(kind="folder", path=str(tmp_path), caption_column="text"))
    assert {row["url"][2:]: (row["caption"], row["captions"]) for row in rows.to_pylist()} == {
        "1.jpg": ("one dog", ["one dog"]),
        "2.jpg": (None, None),
        "3.jpg": ("two cats", LIST),
        "4.jpg": (None, None),
        "5.jpg": ("five", ["five"]),
    }
