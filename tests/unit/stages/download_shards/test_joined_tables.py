"""Tables of one list that differ: captions stay texts or lists of texts, and no value loses anything."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.contract.errors import InputFault
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


def further(path, **options):
    source = UrlListSource(kind="url_list", path=str(path), caption_column="c", **options)
    return read_url_list(source)["x"].to_pylist()


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("beside", ["5", "0.5", "text"])
@pytest.mark.parametrize("count", [15, 16, 17, 18, 19, 20, 400])
def test_whole_numbers_of_a_csv_keep_their_digits(tmp_path, count, beside, sign):
    values = [beside, sign + "1234567890" * 40, sign + "1234567890" * 39 + "1234567899"]
    values = [value[: len(sign) + count] for value in values]
    (tmp_path / "x.csv").write_text("url,c,x\n" + "".join(f"http://a/{n},c,{x}\n" for n, x in enumerate(values)))
    found = further(tmp_path / "x.csv")
    is_number = count <= 19 if beside == "5" else count <= 16 if beside == "0.5" else False
    assert found == ([float(x) if "." in beside else int(x) for x in values] if is_number else values)


@pytest.mark.parametrize("value", ["1" * 400 + ".5", "1e400", "-1e400"])
def test_a_number_that_no_float_holds_stays_a_text(tmp_path, value):
    (tmp_path / "x.csv").write_text(f"url,c,x\nhttp://a/1,c,{value}\nhttp://a/2,c,1.5\n")
    assert further(tmp_path / "x.csv") == [value, "1.5"]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_whole_numbers_beside_fractions_keep_their_digits_in_several_files(tmp_path, form, is_first):
    large = 1234567890123456789
    for number, value in enumerate([large, 1.5] if is_first else [1.5, large]):
        rows = [{"url": f"http://a/{number}", "c": "c", "x": value, "y": value if value == 1.5 else 3}]
        if form == "jsonl":
            write_lines(tmp_path / f"{number}.jsonl", rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{number}.parquet")
    assert further(tmp_path, format=form) == ([str(large), "1.5"] if is_first else ["1.5", str(large)])
    source = UrlListSource(kind="url_list", path=str(tmp_path), caption_column="c", format=form)
    assert sorted(read_url_list(source)["y"].to_pylist()) == [1.5, 3.0]


def test_whole_numbers_beside_fractions_keep_their_digits_across_a_batch_boundary(tmp_path):
    values = [1234567890123456789, *[7] * (BATCH - 1), 1.5]
    write_lines(tmp_path / "x.jsonl", ({"url": f"http://a/{n}", "c": "c", "x": x} for n, x in enumerate(values)))
    found = further(tmp_path / "x.jsonl")
    assert (found[0], found[1], found[-1]) == ("1234567890123456789", "7", "1.5")


def captions(path, **options):
    found = read_url_list(UrlListSource(kind="url_list", path=str(path), caption_column="c", **options))
    return found.select([name for name in ("caption", "captions") if name in found.column_names]).to_pylist()


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), None])
def test_a_caption_column_of_floats_is_missing_where_it_holds_no_number(tmp_path, kind):
    pq.write_table(pa.table({"url": ["http://a/1"], "c": ["x"]}), tmp_path / "1.parquet")

    def column(*values):
        return pa.array(values, kind) if kind else pa.array(values, pa.float64()).dictionary_encode()

    pq.write_table(pa.table({"url": ["http://a/2"] * 2, "c": column(float("nan"), None)}), tmp_path / "2.parquet")
    assert captions(tmp_path) == [{"caption": "x"}, {"caption": None}, {"caption": None}]
    pq.write_table(pa.table({"url": ["http://a/2"] * 2, "c": column(float("nan"), 3.5)}), tmp_path / "2.parquet")
    with pytest.raises(InputFault, match=r"2\.parquet cannot be read as parquet \(column 'c' holds (float|double)"):
        captions(tmp_path)


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_nan_is_a_missing_caption_or_address_in_json(tmp_path, form):
    def write(*values):
        records = [{"url": f"http://a/{n}", "c": value} for n, value in enumerate(values)]
        records.append({"url": float("nan"), "c": "of nothing"})
        path = tmp_path / f"x.{form}"
        path.write_text(json.dumps(records)) if form == "json" else write_lines(path, records)
        return path

    nan = float("nan")
    assert captions(write("x", nan, None)) == [{"caption": "x"}, *[{"caption": None}] * 2, {"caption": "of nothing"}]
    assert captions(write(nan, nan))[:2] == [{"caption": None}] * 2
    assert captions(write(["x", nan, "y"], nan))[:2] == [
        {"caption": "x", "captions": ["x", "y"]},
        {"caption": None, "captions": None},
    ]
    for value in (3.5, [3.5], float("inf")):
        with pytest.raises(InputFault, match=r"column 'c' holds .*a number"):
            captions(write("x", value, nan))
