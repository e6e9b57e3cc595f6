"""Damaged records in a store: each costs itself, with a sentence, and the others are shown."""

import json
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.store import Store
from tests.e2e.conftest import corgi
from tests.factories import make_record

DAMAGED = {
    "empty": b"",
    "half": b'{"run": "half", "na',
    "list": b"[]",
    "not-utf8": b'{"run": "\xff\xfe"}',
    "deep": b"[" * 100_000,
    "long-number": b'{"run": "long-number", "seconds": ' + b"9" * 5000 + b"}",
    "surrogate": json.dumps(make_record("surrogate").to_json() | {"name": "\ud800"}).encode(),
    "control": json.dumps(make_record("control").to_json() | {"\x1b[2J\x07": 1}).encode(),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name, content in DAMAGED.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_bytes(content)
    Store(str(tmp_path)).write_run(make_record("whole-1"))
    return tmp_path


def test_status_shows_the_whole_runs_and_names_the_damaged_ones(store: Path) -> None:
    done = corgi("status", "--store", store, "--json")
    assert done.code == 0
    assert [run["run"] for run in done.document["runs"]] == ["whole-1"]
    lines = done.err.splitlines()
    assert len(lines) == len(DAMAGED)
    for name in DAMAGED:
        (line,) = [line for line in lines if f"runs/{name}/run.json" in line]
        assert line.endswith("remove its folder")
        assert line.isprintable()


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record_that_is_asked_for_is_refused(store: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"runs/{name}/run.json") as caught:
        Store(str(store)).read_run(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [b"", b'{"format": ', b"[]", b'{"format": "1\x1b"}', b"\xff\xfe{"], ids=repr)
def test_a_damaged_store_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.json").write_bytes(content)
    done = corgi("compare", "a-1", "--store", tmp_path)
    assert done.code == 2
    assert done.err.startswith("corgi: store: ")
    assert done.err.rstrip("\n").isprintable()
