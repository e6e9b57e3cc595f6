"""Rows of lists and folders that change the columns, or the types of columns, of all others: old shards stay."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.factories import serve_folder
from tests.hostile.datasets import write_parquet
from tests.integration.test_growth_of_sources import Pile, keys, names_of, png

ENTRIES = 6
FURTHER = {"ratio": 0.5, "text": "none", "large": 10**30, "list": ["a"], "yes": True, "field": {"b": 2}}
Rows = Sequence[Mapping[str, Any] | str]


def reused(pile: Pile, write: Callable[[Rows], None], plain: Rows, more: Mapping[str, Any] | str) -> None:
    """Assert that a row costs no shard, neither when it comes nor when it goes."""
    write(plain)
    first, counts = pile.run()
    assert len(names_of(first)) == 2
    write([*plain, more])
    second, counts = pile.run()
    assert counts["reused_shards"] == 2
    assert names_of(second) == [*names_of(first), "00002"]
    assert keys(second)[:ENTRIES] == keys(first)
    write(plain[1:])
    third, counts = pile.run()
    assert (counts["reused_shards"], counts["remade_shards"]) == (1, 1)
    assert keys(third) == keys(first)[1:]


def jsonl(path: Path) -> Callable[[Rows], None]:
    def write(rows: Rows) -> None:
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))

    return write


def delimited(path: Path) -> Callable[[Rows], None]:
    def write(rows: Rows) -> None:
        lines = (row if isinstance(row, str) else ",".join(map(str, row.values())) for row in rows)
        path.write_text("\n".join([",".join(("url", "c", "x")), *lines]))

    return write


@pytest.mark.parametrize(
    ("first", "what"),
    [*((3, what) for what in ("fault", "captions", *FURTHER)), (0.25, "text"), (True, "text"), ({"a": 1}, "text"),
     ({"a": 1}, "field")],
)  # fmt: skip
def test_a_row_of_a_jsonl_list_costs_no_shard(tmp_path: Path, first: Any, what: str) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with serve_folder(served) as base:
        rows = [{"url": f"{base}/{n}", "c": f"{n}" if n else None, "x": first} for n in range(ENTRIES)]
        more: Any = {"url": f"{base}/9", "c": "more", "x": FURTHER.get(what, first)}
        if what == "captions":
            more["c"] = ["one", "another"]
        source = {"kind": "url_list", "path": str(tmp_path / "l.jsonl"), "caption_column": "c"}
        pile = Pile(tmp_path, source, allowed_networks=["127.0.0.1/32"])
        reused(pile, jsonl(tmp_path / "l.jsonl"), rows, "{bad" if what == "fault" else more)


@pytest.mark.parametrize(
    ("first", "more"),
    [("3", ""), ("3", ",0.5"), ("3", ",none"), ("3", "," + "1" * 20), ("0.25", ",none")],
)  # fmt: skip
def test_a_row_of_a_csv_list_costs_no_shard(tmp_path: Path, first: str, more: str) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with serve_folder(served) as base:
        rows = [{"url": f"{base}/{n}", "c": f"0{n}", "x": first} for n in range(ENTRIES)]
        source = {"kind": "url_list", "path": str(tmp_path / "l.csv"), "caption_column": "c"}
        pile = Pile(tmp_path, source, allowed_networks=["127.0.0.1/32"])
        reused(pile, delimited(tmp_path / "l.csv"), rows, f"{base}/9,more{more}")


@pytest.mark.parametrize("what", ["missing", "captions", "ratio", "text"])
def test_a_row_of_a_metadata_file_costs_no_shard(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rows = [{"file_name": f"{n}.png", "caption": f"image {n}", "x": 3} for n in range(ENTRIES)]

    def write(found: Rows) -> None:
        for file in folder.iterdir():
            file.unlink()
        for name in (row["file_name"] for row in found if not isinstance(row, str)):
            if name != "gone.png":
                (folder / name).write_bytes(png(int(name.partition(".")[0])))
        jsonl(folder / "metadata.jsonl")(found)

    more = {"file_name": "gone.png" if what == "missing" else "9.png", "caption": "more", "x": FURTHER.get(what, 3)}
    if what == "captions":
        more["caption"] = ["one", "another"]
    reused(Pile(tmp_path, {"kind": "folder", "path": str(folder)}), write, rows, more)


@pytest.mark.parametrize("what", ["further", "blank", "lists of one"])
def test_a_file_of_other_columns_costs_no_shard_of_a_dataset(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "data"
    pile = Pile(tmp_path, {"kind": "huggingface", "path": str(folder), "caption_column": "text"})
    write_parquet(folder / "a.parquet", [10, 20, 30], n=[1, None, 3])
    write_parquet(folder / "b.parquet", [40, 50, 60], n=[4, 5, 6])
    first, _ = pile.run()
    if what == "lists of one":  # pushed anew, with captions and numbers of other types
        for file, reds in (("a", [10, 20, 30]), ("b", [40, 50, 60])):
            ns = [None if red == 20 else red / 10 for red in reds]
            write_parquet(folder / f"{file}.parquet", reds, text=[[f"caption {red}"] for red in reds], n=ns)
        more: dict[str, Any] = {"text": [["caption 70"]], "n": [0.5]}
    else:
        more = {"width": [5]} if what == "further" else {"text": [float("nan")], "n": [7]}
    write_parquet(folder / "c.parquet", [70], **more)
    second, counts = pile.run()
    assert counts["reused_shards"] == 2
    assert counts["captioned"] == (6 if what == "blank" else 7)
    assert names_of(second) == [*names_of(first), "00002"]
    assert keys(second)[:ENTRIES] == keys(first)
