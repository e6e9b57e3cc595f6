"""The report at the end of a run: made, or left out with a line that says why."""

import os
from pathlib import Path

import pytest

from pipeline.html_report.at_end import report_at_end
from pipeline.store import Store
from tests.factories import make_entry, make_record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path))
    made.open_for_writing()
    return made


def test_the_page_is_made(store: Store) -> None:
    said: list[str] = []
    page = report_at_end(make_record("tiny-1"), store, said.append)
    assert page is not None
    assert "tiny-1" in page
    assert said == []


def test_one_that_is_late_is_left_out(store: Store) -> None:
    plan = {"download_shards": {"fingerprint": "d", "identity": {}}}
    folder = Path(store.artifact("download_shards", "d").uri)
    (folder / "units").mkdir(parents=True)
    unit = folder / "units/00000.json"
    os.mkfifo(unit)  # whoever reads it waits until somebody writes
    said: list[str] = []
    try:
        assert report_at_end(make_record("tiny-1", plan=plan), store, said.append, seconds=0.2) is None
    finally:
        unit.open("w").close()
    assert said == [
        "tracking: warning: the run's report is not logged (it was not ready within 0.2 s); "
        "`corgi report tiny-1` makes it"
    ]


def test_damage_never_ends_a_run(store: Store) -> None:
    plan = {"download_shards": {"fingerprint": "d", "identity": {}}}
    record = make_record("tiny-1", plan=plan, stages=[make_entry("download_shards", fingerprint="d")])
    folder = Path(store.artifact("download_shards", "d").uri)
    (folder / "units").mkdir(parents=True)
    (folder / "units/00000.json").write_text("no json")
    said: list[str] = []
    assert report_at_end(record, store, said.append) is None
    assert "is not logged (" in said[0]
