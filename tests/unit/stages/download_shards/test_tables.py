"""The readers of lists, over tables that hypothesis makes: what was written is read, all else counted or refused."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.contract.errors import FailureCause, InputFault
from stages.download_shards.config import UrlListSource
from stages.download_shards.sources.columns import FAULT, captions_of, fault_of
from stages.download_shards.sources.parquet_lists import ParquetRows
from stages.download_shards.sources.tables import read_table
from stages.download_shards.sources.url_list import read_url_list, wanted_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff\r"), max_size=30)
#: Texts that a quoted field of a csv may hold: a line that is itself a row would be one.
CELLS = TEXTS.filter(lambda text: "://" not in text)
ROWS = st.lists(st.tuples(st.from_regex(r"http://a/[a-z0-9]{1,8}", fullmatch=True), CELLS), min_size=1, max_size=8)
BOUNDED = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def source_of(path, **options):
    return UrlListSource(kind="url_list", path=str(path), **({"caption_column": "caption"} | options))


def read(path):
    rows = read_url_list(source_of(path)).to_pylist()
    return [(row["url"], row["caption"] or "") for row in rows]


def expected(rows):
    return [(url, caption if caption.strip() else "") for url, caption in rows]


@given(ROWS, st.sampled_from([",", "\t"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
@BOUNDED
def test_what_a_csv_writer_writes_is_read(tmp_path, rows, delimiter, encoding):
    path = tmp_path / ("list.csv" if delimiter == "," else "list.tsv")
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([("url", "caption"), *rows])
    assert read(path) == expected(rows)


@given(ROWS, st.booleans())
@BOUNDED
def test_what_a_json_writer_writes_is_read(tmp_path, rows, ascii_alone):
    records = [{"url": url, "caption": caption} for url, caption in rows]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(record, ensure_ascii=ascii_alone) for record in records))
    (tmp_path / "list.json").write_text(json.dumps({"url": dict(enumerate(u for u, _ in rows)),
                                                    "caption": dict(enumerate(c for _, c in rows))}))  # fmt: skip
    assert read(tmp_path / "list.jsonl") == expected(rows)
    assert read(tmp_path / "list.json") == expected(rows)


@given(ROWS, st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.binary()]), st.booleans())
@settings(BOUNDED, max_examples=5)  # each starts a process
def test_what_a_parquet_writer_writes_is_read(tmp_path, rows, kind, as_category):
    captions = pa.array([caption for _, caption in rows]).cast(kind)
    if as_category and kind == pa.string():
        captions = captions.dictionary_encode()
    pq.write_table(pa.table({"url": [url for url, _ in rows], "caption": captions}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == expected(rows)


PIECES = st.sampled_from(
    ['"', '""', ",", "\t", "\n", "\r\n", "\r", "a", "http://a/1", "\0", "\ufeff", "é", "[", "{", "}"]
)


def read_or_refuse(path, form, wanted):
    try:
        return read_table(path, form, wanted, ParquetRows())
    except InputFault as fault:
        return fault


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl", "txt"])
@given(content=st.binary(max_size=60) | st.lists(PIECES, max_size=40).map(lambda some: "".join(some).encode()))
@BOUNDED
def test_any_bytes_are_rows_or_one_sentence(tmp_path, form, content):
    path = tmp_path / f"list.{form}"
    for head in (b"", b"url,caption\n", b"url\tcaption\n"):
        path.write_bytes(head + content)
        source = source_of(path) if form != "txt" else source_of(path, caption_column=None)
        found = read_or_refuse(str(path), form, wanted_of(source))
        if isinstance(found, InputFault):
            assert str(path) in str(found)
            assert str(found).isprintable()
            continue
        for row in found.to_pylist():
            for name in ("url", "caption"):
                assert "\0" not in (row.get(name) or "")
            fault = fault_of(row.get(FAULT))
            assert fault is None or fault.cause is FailureCause.BAD_ROW


@given(ROWS, st.integers(0, 7), st.sampled_from(["open", '"open', '"', '5" x', '"a" b', '"""']))
@BOUNDED
def test_a_quote_costs_at_most_its_own_row(tmp_path, rows, position, broken):
    """Every other row is read as it is, wherever the quote stands."""
    lines = [[url, caption.replace('"', "").replace("\t", " ").replace("\n", " ")] for url, caption in rows]
    lines.insert(min(position, len(lines)), ["http://a/broken", broken])
    (tmp_path / "list.tsv").write_text("\n".join("\t".join(line) for line in [["url", "caption"], *lines]), newline="")
    found = read(tmp_path / "list.tsv")
    assert [url for url, _ in found] == [url for url, _ in lines]
    expected_others = [(url, caption if caption.strip() else "") for url, caption in lines if url != "http://a/broken"]
    assert [one for one in found if one[0] != "http://a/broken"] == expected_others
    lines = [[one.replace(",", " ") for one in line] for line in lines]
    (tmp_path / "list.csv").write_text("\n".join(",".join(line) for line in [["url", "caption"], *lines]), newline="")
    found = [one for one in read(tmp_path / "list.csv") if one[0] not in {None, "http://a/broken"}]
    assert found == [(url, caption.replace(",", " ")) for url, caption in expected_others]


def test_views_of_lists_are_read_with_their_nulls():
    lists = [["a", "b"], None, ["c", None], []]
    for kind in (pa.list_view(pa.string()), pa.large_list_view(pa.string()), pa.large_list(pa.string_view())):
        column, faults = captions_of(pa.chunked_array([pa.array(lists, kind)]), "caption")
        assert (column.type, column.to_pylist(), faults) == (pa.list_(pa.string()), lists, {})


def test_names_that_are_used_within_are_refused(tmp_path):
    for name in (FAULT, "__is_duplicate__"):
        (tmp_path / "x.csv").write_text(f"url,caption,{name}\na,b,c\n")
        (tmp_path / "x.jsonl").write_text(json.dumps({"url": "a", "caption": "b", name: "c"}))
        pq.write_table(pa.table({"url": ["a"], "caption": ["b"], name: ["c"]}), tmp_path / "x.parquet")
        for form in ("csv", "jsonl", "parquet"):
            with pytest.raises(InputFault, match=f"a column is named {name}"):
                read(tmp_path / f"x.{form}")


def test_a_table_is_read_whole_over_its_batches(tmp_path):
    buffer = io.StringIO()
    buffer.write("url,caption,n\n")
    for number in range(140_000):
        buffer.write(f"http://a/{number},{number:06d},{number}\n")
    (tmp_path / "list.csv").write_text(buffer.getvalue())
    table = read_url_list(source_of(tmp_path / "list.csv"))
    assert table["caption"].to_pylist() == [f"{number:06d}" for number in range(140_000)]
    assert table["n"].to_pylist() == list(range(140_000))
