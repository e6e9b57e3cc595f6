import bz2
import gzip
import io
import json
import lzma
import zipfile

import pandas as pd
import pyarrow as pa
import pytest

from stages.contract.errors import InputFault
from stages.download_shards.check import check
from stages.download_shards.config import DownloadShardsConfig, UrlListSource
from stages.download_shards.sources.rows import on_disk
from stages.download_shards.sources.url_list import read_url_list

URLS = ["http://a/1.jpg", "http://a/2.jpg", "http://a/3.jpg"]
CAPTIONS = ["a red circle", None, "three, with a comma"]


def write_list(path, kind):
    frame = pd.DataFrame({"text": CAPTIONS, "image_url": URLS, "width": [1, 2, 3]})
    match kind:
        case "parquet":
            frame.to_parquet(path)
        case "csv":
            frame.to_csv(path, index=False)
        case "tsv":
            frame.to_csv(path, index=False, sep="\t")
        case "json":
            path.write_text(json.dumps(frame.where(frame.notna(), None).to_dict("records")))
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
    return path


def make_source(path, **options):
    columns = {"url_column": "image_url", "caption_column": "text"}
    return UrlListSource(kind="url_list", path=path, **(columns | options))


def check_source(source):
    check(DownloadShardsConfig(source=source))


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "json", "jsonl"])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    source = make_source(write_list(tmp_path / f"list.{kind}", kind))
    check_source(source)
    rows = read_url_list(source)
    assert rows.to_pydict() == {"caption": CAPTIONS, "url": URLS, "source_width": [1, 2, 3]}


def test_a_text_file_has_one_address_per_line(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\n".join([URLS[0], "", f"  {URLS[1]} "]))
    assert read_url_list(UrlListSource(kind="url_list", path=path)).to_pydict() == {"url": URLS[:2]}


def test_a_folder_is_read_file_by_file_in_order(tmp_path):
    for name in ("b", "a"):
        write_list(tmp_path / f"{name}.csv", "csv")
    rows = read_url_list(make_source(tmp_path, format="csv", caption_column=None))
    assert rows["url"].to_pylist() == URLS + URLS
    assert rows.column_names == ["url", "text", "source_width"]


def test_a_missing_column_names_the_nearest_and_all_others(tmp_path):
    source = make_source(write_list(tmp_path / "list.csv", "csv"), url_column="imageurl")
    with pytest.raises(InputFault, match=r"source\.url_column.*'imageurl'.*nearest: image_url.*text, image_url, width"):
        check_source(source)
    with pytest.raises(InputFault, match=r"source\.caption_column.*'caption'"):
        check_source(make_source(tmp_path / "list.csv", caption_column="caption"))


def test_a_missing_file_is_reported_with_its_path(tmp_path):
    with pytest.raises(InputFault, match=r"source\.path: .*nowhere\.parquet: there is no such file"):
        check_source(make_source(tmp_path / "nowhere.parquet"))


def test_an_empty_folder_is_reported_with_what_is_missing(tmp_path):
    with pytest.raises(InputFault, match=r"no \*\.parquet file in it"):
        check_source(make_source(tmp_path))


def test_an_unknown_suffix_lists_the_formats(tmp_path):
    path = tmp_path / "list.xlsx"
    path.write_bytes(b"")
    with pytest.raises(InputFault, match="allowed are parquet, csv, tsv, json, jsonl, txt"):
        check_source(make_source(path))


def test_a_file_of_another_format_is_reported(tmp_path):
    path = tmp_path / "list.parquet"
    path.write_text("not parquet")
    with pytest.raises(InputFault, match="cannot be read as parquet"):
        check_source(make_source(path))


def test_an_empty_list_is_refused(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\n")
    with pytest.raises(InputFault, match="lists no address"):
        read_url_list(UrlListSource(kind="url_list", path=path))


def test_rows_on_disk_are_the_same_and_take_no_memory():
    before = pa.total_allocated_bytes()
    urls = [f"http://a.example/{number:050d}.png" for number in range(20_000)]
    rows = pa.table({"caption": [None, "two"] * 10_000, "url": urls})
    size = pa.total_allocated_bytes() - before
    mapped = on_disk(rows)
    assert mapped.equals(rows)
    assert mapped.slice(7, 3).to_pylist() == rows.slice(7, 3).to_pylist()
    del rows
    assert size > 1_000_000
    assert pa.total_allocated_bytes() - before < size / 20
    assert on_disk(mapped.slice(0, 0)).schema == mapped.schema


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zip", "zstd"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "txt"])
def test_a_compressed_list_is_said_to_be_one(tmp_path, kind, name):
    path = write_list(tmp_path / f"a.{kind}", kind) if kind != "txt" else tmp_path / "a.txt"
    content = path.read_bytes() if kind != "txt" else "\n".join(URLS).encode()
    (tmp_path / f"b.{kind}").write_bytes(compressed(content, name))
    path.write_bytes(content)
    options = {"caption_column": None} if kind == "txt" else {}
    for source in (make_source(tmp_path / f"b.{kind}", **options), make_source(tmp_path, format=kind, **options)):
        with pytest.raises(
            InputFault, match=rf"b\.{kind} cannot be read .*compressed by {name}.*: unpack it"
        ) as caught:
            read_url_list(source)
        assert "latin-1" not in str(caught.value)


def compressed(content, name):
    if name == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("list", content)
        return file.getvalue()
    if name == "zstd":
        return pa.Codec("zstd").compress(content, asbytes=True)
    return {"gzip": gzip, "bzip2": bz2, "xz": lzma}[name].compress(content)


def test_a_text_may_begin_as_compressed_files_do(tmp_path):
    (tmp_path / "a.csv").write_text("BZh9,image_url,text\n1,http://a/1.jpg,one\n")
    assert read_url_list(make_source(tmp_path / "a.csv"))["url"].to_pylist() == ["http://a/1.jpg"]
