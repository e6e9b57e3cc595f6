"""Lists as strangers make them: texts as written, damaged rows counted with their lines, the rest read or refused."""

import json
import os
import resource
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.contract.errors import InputFault
from stages.download_shards.config import UrlListSource
from stages.download_shards.sources.parquet_lists import ParquetRows
from stages.download_shards.sources.tables import read_table
from stages.download_shards.sources.url_list import read_url_list, wanted_of
from tests.factories import save_image, serve_folder
from tests.growth import assert_linear
from tests.hostile.downloads import captions_by_url, download, lost_by_url, red_of, rows, samples

AS_WRITTEN = ["007", "3.10", "True", "2020-01-01", "NA", "null", "1e5", " padded ", "ñ 🎨", 'a "quote"', "two\nlines"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index in range(12):
        save_image(folder / f"{index}.png", color=(20 * index, 0, 0))
    with serve_folder(folder) as base:
        yield [f"{base}/{index}.png" for index in range(12)]


def convert(tmp_path, name, content, out="out", **source):
    if isinstance(content, str | bytes):
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(content)
    given = {"kind": "url_list", "path": tmp_path / name, "caption_column": "caption"} | source
    return download(given, tmp_path / out, allowed_networks=["127.0.0.0/8"], per_host=4)


def write(path, frame, form):
    match form:
        case "csv":
            frame.to_csv(path, index=False)
        case "tsv":
            frame.to_csv(path, index=False, sep="\t")
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(path)
        case _:
            frame.to_json(path, orient=form.removeprefix("json_"))
    return path


@pytest.mark.parametrize(
    "form",
    ["csv", "tsv", "jsonl", "parquet", "json_columns", "json_index", "json_records", "json_split", "json_table"],
)
def test_captions_are_texts_as_written_in_every_form(tmp_path, images, form):
    urls = images[: len(AS_WRITTEN)]
    name = f"list.{form.partition('_')[0]}"
    write(tmp_path / name, pd.DataFrame({"url": urls, "caption": AS_WRITTEN, "n": range(len(urls))}), form)
    summary = convert(tmp_path, name, None)
    assert summary.counts == {"rows": 11, "images": 11, "captioned": 11}
    assert captions_by_url(tmp_path / "out") == {url: (text,) for url, text in zip(urls, AS_WRITTEN, strict=True)}
    assert rows(tmp_path / "out")["n"].tolist() == list(range(11))
    assert [red_of(sample) for sample in samples(tmp_path / "out")] == [20 * index for index in range(11)]


def test_a_quote_that_is_not_closed_swallows_no_row(tmp_path, images):
    lines = [f'{images[0]}\t"open', f"{images[1]}\tfine", f'{images[2]}\t"whole, ""quoted"""', f'{images[3]}\t5" pipe']
    lines += [f'{images[4]}\t"A" is a letter', f'{images[5]}\t"two\nlines"', f'{images[6]}\t"open at the end']
    summary = convert(tmp_path, "list.tsv", "\n".join(["url\tcaption", *lines]))
    assert [found[0] for found in captions_by_url(tmp_path / "out").values()] == [
        '"open', "fine", 'whole, "quoted"', '5" pipe', '"A" is a letter', "two\nlines", '"open at the end',
    ]  # fmt: skip
    assert summary.counts == {"rows": 7, "images": 7, "captioned": 7}
    summary = convert(tmp_path, "list.csv", "\n".join(["url,caption", *lines]).replace("\t", ","), out="csv")
    assert summary.counts == {"rows": 7, "images": 4, "captioned": 4, "failed_bad_row": 3}
    assert list(captions_by_url(tmp_path / "csv").values()) == [
        ("fine",),
        ('whole, "quoted"',),
        ('5" pipe',),
        ("two\nlines",),
    ]
    assert "bad_row: 3 (first: the row is damaged: line 2: a quote is not closed" in str(summary.notes)


def test_an_open_quote_is_found_where_a_later_one_seems_to_close_it(tmp_path, images):
    content = f'url,caption\n{images[0]},"open\n{images[1]},fine\n{images[2]},a pipe of 5"\n{images[3]},"x\ny"\n'
    summary = convert(tmp_path, "list.csv", content)
    assert captions_by_url(tmp_path / "out") == {
        images[1]: ("fine",),
        images[2]: ('a pipe of 5"',),
        images[3]: ("x\ny",),
    }
    assert summary.counts["failed_bad_row"] == 1
    content = f'caption,url\n"open,{images[0]}\na pipe of 5",{images[1]}\n"x\ny",{images[2]}\n'
    convert(tmp_path, "first.csv", content, out="first")
    assert captions_by_url(tmp_path / "first") == {images[1]: ('a pipe of 5"',), images[2]: ("x\ny",)}


def test_rows_of_another_width_are_counted_with_their_lines(tmp_path, images):
    content = f"url,caption\n{images[0]}\n{images[1]},a,b\n{images[2]},a,,\n\n{images[3]},b\n"
    summary = convert(tmp_path, "list.csv", content)
    assert summary.counts == {"rows": 4, "images": 2, "captioned": 2, "failed_bad_row": 2}
    messages = rows(tmp_path / "out")["error_message"].dropna().tolist()
    assert messages == [
        "the row is damaged: line 2: 1 fields, where the header has 2",
        "the row is damaged: line 3: 3 fields, where the header has 2",
    ]


def test_columns_are_those_of_all_records_and_a_bad_line_costs_itself(tmp_path, images):
    lines = [
        json.dumps({"url": images[0]}),
        json.dumps({"url": images[1], "caption": "late", "extra": 1}),
        "{damaged",
        json.dumps({"url": images[2], "caption": "half \ud800"}),
        json.dumps({"url": images[3], "caption": ["one", "two"], "extra": "text"}),
        "[1]",
        f'{{"url": "{images[4]}", "caption": {"[" * 5000}{"]" * 5000}}}',
        f'{{"url": "{images[4]}", "url": "{images[5]}"}}',
        json.dumps({"url": images[6], "caption": "x" * 2_000_000}),
    ]
    content = "\n".join(lines).encode() + b"\n\xff\n"
    summary = convert(tmp_path, "list.jsonl", content)
    assert summary.counts == {"rows": 10, "images": 4, "captioned": 3, "failed_bad_row": 6}
    found = captions_by_url(tmp_path / "out")
    assert {url: found[url] for url in images[:4] if url in found} == {
        images[0]: (),
        images[1]: ("late",),
        images[3]: ("one", "two"),
    }
    assert len(found[images[6]][0]) == 2_000_000
    assert rows(tmp_path / "out")["extra"].dropna().tolist() == ["1", "text"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json_records", "txt"])
def test_a_mark_is_no_part_of_a_name_an_address_or_a_caption(tmp_path, images, encoding, form):
    name = f"list.{form.partition('_')[0]}"
    if form == "txt":
        (tmp_path / name).write_text("\r\n".join(["# list", images[0], "", images[1]]))
    else:
        write(tmp_path / name, pd.DataFrame({"url": images[:2], "caption": ["ñ", "🎨"]}), form)
    text = (tmp_path / name).read_bytes().decode()
    columns = {"caption_column": None} if form == "txt" else {}
    summary = convert(tmp_path, name, text.encode(encoding), **columns)
    assert (summary.counts["rows"], summary.counts["images"]) == (2, 2)
    expected = {images[0]: ("ñ",), images[1]: ("🎨",)} if form != "txt" else dict.fromkeys(images[:2], ())
    assert captions_by_url(tmp_path / "out") == expected


def test_another_encoding_is_refused_with_its_line_or_read_where_it_is_named(tmp_path, images):
    content = f"url,caption\n{images[0]},plain\n{images[1]},caf\xe9\n".encode("latin-1")
    with pytest.raises(
        InputFault, match=r"line 3, byte \d+ \(0xe9\) is not utf-8\): .*encoding to what it is \(latin-1"
    ):
        convert(tmp_path, "list.csv", content)
    convert(tmp_path, "list.csv", content, encoding="latin-1")
    assert captions_by_url(tmp_path / "out") == {images[0]: ("plain",), images[1]: ("café",)}


def test_a_txt_list_counts_the_lines_that_are_no_text(tmp_path, images):
    content = (
        f"{images[0]}\r\n# comment\r\n\r\n{images[1]}\n".encode() + b"http://a/\xff.png\nhttp://a/\0.png\nftp://a/b\n"
    )
    summary = convert(tmp_path, "list.txt", content, caption_column=None)
    assert summary.counts == {"rows": 5, "images": 2, "captioned": 0, "failed_bad_row": 2, "failed_invalid_url": 1}
    messages = rows(tmp_path / "out")["error_message"].tolist()
    assert "the row is damaged: line 5: the value is no valid text: http://a/\\udcff.png" in messages


# ---- columns of parquet files


def parquet(tmp_path, **tables):
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, table in tables.items():
        pq.write_table(pa.table(table), folder / f"{name}.parquet", row_group_size=2)
    return folder


_TEXTS, _LISTS = pa.array(["a", "b", None]), [["a", "b"], None, ["c", None, " "]]
ONE = {
    "plain": _TEXTS, "large": _TEXTS.cast(pa.large_string()), "view": _TEXTS.cast(pa.string_view()),
    "bytes": _TEXTS.cast(pa.binary()), "category": _TEXTS.dictionary_encode(),
}  # fmt: skip
SEVERAL = {
    "list": pa.array(_LISTS), "large_list": pa.array(_LISTS, pa.large_list(pa.string())),
    "list_view": pa.array(_LISTS, pa.list_view(pa.string())),
    "large_view": pa.array(_LISTS, pa.large_list_view(pa.string())),
    "fixed": pa.array([["a", "b"], [None, " "], ["c", None]], pa.list_(pa.string(), 2)),
    "categories": pa.array(_LISTS, pa.list_(pa.dictionary(pa.int32(), pa.string()))),
}  # fmt: skip


@pytest.mark.parametrize("form", [*ONE, *SEVERAL, "null"])
def test_texts_are_read_in_every_form_that_arrow_has_for_them(tmp_path, images, form):
    column = (ONE | SEVERAL).get(form, pa.nulls(3))
    convert(tmp_path, parquet(tmp_path, x={"url": images[:3], "caption": column}), None)
    expected = [("a",), ("b",), ()] if form in ONE else [("a", "b"), (), ("c",)] if form in SEVERAL else [(), (), ()]
    assert list(captions_by_url(tmp_path / "out").values()) == expected


def test_files_of_a_folder_may_differ_in_types_and_lack_captions(tmp_path, images):
    folder = parquet(
        tmp_path,
        a={"url": images[:1], "caption": ["a"], "n": [1], "k": pa.array(["u"]).dictionary_encode()},
        b={"url": images[1:2], "n": ["text"], "k": ["v"], "when": pa.array([10**15], pa.timestamp("s"))},
        c={"url": images[2:3], "caption": [["c", "d"]], "n": [1.5], "k": pa.nulls(1)},
    )
    (folder / "README.md").write_text("about")
    (folder / ".hidden.parquet").write_text("x")
    summary = convert(tmp_path, folder, None)
    assert summary.counts == {
        "rows": 3, "images": 3, "captioned": 2, "skipped_hidden_file": 1, "skipped_no_image_file": 1,
    }  # fmt: skip
    assert list(captions_by_url(tmp_path / "out").values()) == [("a",), (), ("c", "d")]
    assert rows(tmp_path / "out")["n"].tolist() == ["1", "text", "1.5"]
    assert rows(tmp_path / "out")["k"].tolist() == ["u", "v", None]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([{"en": "a"}]), r"holds struct<en: string>"),
        (pa.array([[{"en": "a"}]]), r"holds list<\w+: struct"),
        (pa.array([[("en", "a")]], pa.map_(pa.string(), pa.string())), r"holds map<string, string"),
        (pa.array([7]), r"holds int64"),
        (pa.array([True]), r"holds bool"),
        (pa.array([[["a"]]]), r"holds list<\w+: list<"),
    ],
)
def test_captions_of_another_shape_are_refused_by_column_and_type(tmp_path, images, column, words):
    folder = parquet(tmp_path, a={"url": images[:1], "caption": column})
    with pytest.raises(
        InputFault, match=rf"a\.parquet cannot be read as parquet \(column 'caption' {words}.*texts or lists"
    ):
        convert(tmp_path, folder, None)


@pytest.mark.parametrize(
    ("value", "words"),
    [({"en": "a"}, "an object"), ([{"a": 1}], "a list with an object"), (7, "a number"), (True, "true")],
)
def test_captions_of_another_shape_in_json_are_refused_with_their_line(tmp_path, images, value, words):
    lines = [json.dumps({"url": images[0], "caption": "good"}), json.dumps({"url": images[1], "caption": value})]
    with pytest.raises(InputFault, match=rf"line 2: column 'caption' holds {words}"):
        convert(tmp_path, "list.jsonl", "\n".join(lines))
    with pytest.raises(InputFault, match=rf"record 2: column 'caption' holds {words}"):
        convert(tmp_path, "list.json", f"[{','.join(lines)}]")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "url,caption,caption\nx,y,z\n", "several columns are named caption"),
        ("a.tsv", "url\tcaption\tcaption\n", "several columns are named caption"),
        ("a.json", '{"columns": ["url", "url"], "data": []}', "several columns are named url"),
        ("a.json", '{"url": ["a"], "url": ["b"]}', "a key is given twice: 'url'"),
        ("a.json", '[["a", "b"]]', "no table: expected a list of records"),
        ("a.json", '{"url": ["a"], "caption": []}', "different lengths"),
        ("a.json", "[" * 100_000, "nested deeper"),
        ("a.json", "7", "found a number, which is no table"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", '"url,caption\nx,y\n', "line 1: a quote is not closed"),
        ("a.csv", "url;caption\nx;y\n", "has no column 'url'"),
        ("a.parquet", "PAR1", "cannot be read as parquet"),
        ("a.jsonl", '{"url": {"a": 1}}', "line 1: column 'url' holds an object: addresses"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_with_what_was_found(tmp_path, name, content, words):
    with pytest.raises(InputFault, match=words) as caught:
        convert(tmp_path, name, content)
    assert len(str(caught.value)) < 500


def test_texts_that_are_not_utf_8_cost_their_rows(tmp_path, images):
    def column(*values):
        ends = [0]
        for value in values:
            ends.append(ends[-1] + len(value))
        offsets = pa.array(ends, pa.int32()).buffers()[1]
        return pa.Array.from_buffers(pa.string(), len(values), [None, offsets, pa.py_buffer(b"".join(values))])

    captions = column(b"good", b"\xff\xfe", b"nul \0", b"\xef\xbb\xbfmark")
    folder = parquet(tmp_path, a={"url": images[:4], "caption": captions, "other": column(b"\xff", b"a", b"b", b"c")})
    summary = convert(tmp_path, folder, None)
    assert summary.counts == {"rows": 4, "images": 2, "captioned": 2, "failed_bad_row": 2}
    assert list(captions_by_url(tmp_path / "out").values()) == [("good",), ("mark",)]
    assert set(lost_by_url(tmp_path / "out")) == set(images[1:3])


def test_a_parquet_file_that_would_fill_the_memory_costs_itself_alone(tmp_path):
    value = "http://a.example/" + "x" * 200
    repeated = pa.DictionaryArray.from_arrays(pa.array(np.zeros(24_000_000, dtype=np.int8)), [value])
    pq.write_table(pa.table({"url": repeated}), tmp_path / "list.parquet", row_group_size=24_000_000)
    assert (tmp_path / "list.parquet").stat().st_size < 1_000_000  # which would be 5 GB
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputFault, match=r"row group 0 needs more than 4,000 MB of memory"):
        convert(tmp_path, "list.parquet", None, caption_column=None)
    assert time.monotonic() - began < 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_a_parquet_file_with_a_changed_byte_is_read_or_refused(tmp_path):
    table = pa.table({"url": [f"http://a/{n}" for n in range(50)], "caption": [["a", "b"]] * 50})
    pq.write_table(table, tmp_path / "list.parquet", compression="none", use_dictionary=False)
    content = (tmp_path / "list.parquet").read_bytes()
    wanted = wanted_of(UrlListSource(kind="url_list", path=str(tmp_path / "list.parquet"), caption_column="caption"))
    outcomes: set[int | str] = set()
    with ParquetRows() as parquet:
        for position in range(0, len(content), 11):
            changed = bytearray(content)
            changed[position] ^= 0xFF
            (tmp_path / "list.parquet").write_bytes(changed)
            try:
                outcomes.add(len(read_table(str(tmp_path / "list.parquet"), "parquet", wanted, parquet)))
            except InputFault:
                outcomes.add("refused")
    assert {50, "refused"} <= outcomes


def test_a_list_that_is_no_file_or_leads_out_is_not_read(tmp_path, images):
    (tmp_path / "lists").mkdir()
    os.mkfifo(tmp_path / "lists/fifo.csv")
    (tmp_path / "outside.csv").write_text(f"url,caption\n{images[0]},x\n")
    (tmp_path / "lists/link.csv").symlink_to(tmp_path / "outside.csv")
    began = time.monotonic()
    with pytest.raises(InputFault, match=r"no \*\.csv file in it \(besides not_a_file: 1 .*outside_folder: 1"):
        convert(tmp_path, "lists", None, format="csv")
    with pytest.raises(InputFault, match=r"fifo\.csv: found a FIFO, a socket or a device: expected a file"):
        convert(tmp_path, "lists/fifo.csv", None)
    assert time.monotonic() - began < 100


HOSTILE_CSV: dict[str, Callable[[int], str]] = {
    "open": lambda lines: 'http://a/1.png,"open\n' * lines,
    "quotes": lambda lines: '"\n' * (2 * lines),
    "doubled": lambda lines: '"\n' + '""\n' * lines,
    "one line": lambda lines: "http://a/1.png," + '"' * (10 * lines),
    "wide": lambda lines: "," * (10 * lines) + "\n",
}


@pytest.mark.parametrize("shape", HOSTILE_CSV)
def test_a_long_hostile_csv_is_read_in_linear_time(tmp_path, shape):
    for lines in (25_000, 100_000):
        (tmp_path / f"{lines}.csv").write_text("url,caption\n" + HOSTILE_CSV[shape](lines))

    def read(lines: int) -> None:
        source = UrlListSource(kind="url_list", path=str(tmp_path / f"{lines}.csv"), caption_column="caption")
        assert len(read_url_list(source)) >= 1

    assert_linear(read, 25_000)
