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


def test_figures_have_their_interval_and_number(store: Store) -> None:
    names = {"evaluate/frechet_distance": 4.0, "evaluate/cmmd": 2.0, "train_prior/cosine_true": 0.5}
    bounds: dict[str, dict[str, float | None]] = {
        "evaluate/frechet_distance": {"low": 3.25, "high": 4.75},
        "evaluate/cmmd": {"low": None, "high": None},
    }
    measures = {name: {"value": names[name], **ends, "n": 1240, "protocol": "a"} for name, ends in bounds.items()}
    page = report_at_end(make_record("tiny-1", metrics=names, measures=measures), store, lambda line: None)
    assert page is not None
    assert '<dd class="value">4</dd><dd class="about">95 % 3.25 to 4.75, n 1,240</dd>' in page
    cells = {row.partition("</td>")[0]: row for row in page.split("<tr><td>")}
    assert "<td>3.25 to 4.75</td>" in cells["evaluate/frechet_distance"]
    assert ">1,240</td>" in cells["evaluate/frechet_distance"]
    assert ">1,240</td>" in cells["evaluate/cmmd"]
    assert "1,240" not in cells["train_prior/cosine_true"]


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
