"""Dead runs are known from running ones by their sign of life."""

import datetime
import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cluster.workers import AtWork, by_machine
from pipeline.cli import app
from pipeline.dashboard.runs import stage_node
from pipeline.heartbeat import BEAT_SECONDS, Heartbeat, beating, life_by, life_of
from pipeline.progress import RunningStages
from pipeline.report import run_view, stage_table, status_document
from pipeline.store import Store
from stages.contract.events import Metrics, Progress
from tests.factories import make_entry, make_record

NOW = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)


def _beat(seconds_ago: float, **changes: Any) -> Heartbeat:
    elsewhere = {"host": "node7", "machine": "boot-2/pid:[1]", "pid": 1, "process_started": 0.0, "count": 3}
    time = NOW - datetime.timedelta(seconds=seconds_ago)
    return Heartbeat.model_validate(elsewhere | {"interval": BEAT_SECONDS, "time": time} | changes)


@pytest.mark.parametrize(("seconds", "status"), [(0, "running"), (80, "running"), (100, "lost"), (-60, "running"),
                                                 (-3600, "lost")])  # fmt: skip
def test_a_run_elsewhere_is_lost_when_it_misses_its_beats(seconds: float, status: str) -> None:
    assert life_by(make_record(status="running"), _beat(seconds), NOW).status == status


def test_a_lost_run_is_shown_with_its_age_and_what_to_do() -> None:
    life = life_by(make_record(status="running"), _beat(7300), NOW)
    assert "2 h ago" in life.shown
    assert "process 1 on node7" in life.words
    assert "run the same command again" in life.words
    assert life_by(make_record(status="running"), None, NOW).status == "lost"


@pytest.mark.parametrize(
    ("started", "status"),
    [("2026-01-02T12:00:00+00:00", "running"), ("2026-01-02T11:59:00.123+00:00", "running"),
     ("2026-01-02T13:59:00+02:00", "running"), ("2026-01-02T11:58:00+00:00", "lost"),
     ("2026-01-02T12:00:01+00:00", "lost"), ("2026-01-02T12:00:00", "lost"), ("soon", "lost")],
)  # fmt: skip
def test_a_run_that_has_just_started_has_no_sign_of_life_yet(started: str, status: str) -> None:
    assert life_by(make_record(status="running", started=started), None, NOW).status == status


def test_on_this_machine_the_process_counts_as_well() -> None:
    own = Heartbeat.now(0)
    record = make_record(status="running")
    assert life_by(record, own, own.time).status == "running"
    reused = own.model_copy(update={"process_started": own.process_started - 100})  # another process has its id
    assert life_by(record, reused, own.time).status == "lost"
    late = life_by(record, own, own.time + datetime.timedelta(hours=1))
    assert f"kill -CONT {os.getpid()}" in late.words


def test_a_killed_driver_is_noticed_at_once(tmp_path: Path) -> None:
    script = f"""
import os, signal, time
from pipeline.heartbeat import beating
from pipeline.store import Store
with beating(Store({str(tmp_path)!r}), "tiny-1"):
    while Store({str(tmp_path)!r}).read_heartbeat("tiny-1") is None:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == -9
    store = Store(str(tmp_path))
    store.write_run(make_record(status="running", stages=[make_entry("embed_clip", "running")]))
    life = life_of(make_record(status="running"), store)
    assert (life.status, "is gone" in life.words) == ("lost", True)
    printed = CliRunner().invoke(app, ["status", "--store", str(tmp_path)]).output
    assert "lost (last sign of life" in " ".join(printed.split())
    printed = " ".join(CliRunner().invoke(app, ["status", "tiny", "--store", str(tmp_path)]).output.split())
    assert "run the same command again" in printed
    assert "running" in printed  # the stage in hand
    document = json.loads(CliRunner().invoke(app, ["status", "--store", str(tmp_path), "--json"]).output)
    assert (document["runs"][0]["status"], document["runs"][0]["last_sign_of_life"] is None) == ("lost", False)


def test_only_a_running_record_needs_a_sign_of_life(tmp_path: Path) -> None:
    assert life_of(make_record(status="interrupted"), Store(str(tmp_path))).shown == "interrupted"


def test_a_run_that_has_ended_since_its_record_was_read_is_not_lost(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_run(make_record(status="done"))
    assert life_of(make_record(status="running"), store).status == "done"


@pytest.mark.parametrize("content", ["", "[]", '{"host": 1}', '{"time": "never"}', "\x00" * 10, "[" * 100_000])
def test_a_damaged_sign_of_life_is_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "runs" / "tiny-1" / "heartbeat.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert life_of(make_record(status="running"), Store(str(tmp_path))).status == "lost"


def test_a_store_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "runs").write_text("a file where a folder is expected")
    with beating(Store(str(tmp_path)), "tiny-1"):
        pass
    assert "sign of life could not be written" in caplog.text


def test_it_holds_no_more_than_where_and_when(tmp_path: Path) -> None:
    with beating(Store(str(tmp_path)), "tiny-1"):
        pass
    found = json.loads((tmp_path / "runs" / "tiny-1" / "heartbeat.json").read_text())
    assert set(found) == {
        "host",
        "machine",
        "pid",
        "process_started",
        "time",
        "count",
        "interval",
        "progress",
        "workers",
    }
    assert found["process_started"] == pytest.approx(psutil.Process().create_time())


def test_a_running_run_shows_how_far_its_stages_are_and_a_lost_one_does_not(tmp_path: Path) -> None:
    stages = RunningStages()
    stages.started("train_prior")
    stages.started("train_decoder")
    for done in (100, 300):
        stages.note("train_decoder", Progress(done, 1000, "steps", note="of\x1b[31m phase 1"))
        time.sleep(0.05)
    stages.note("embed_clip", Progress(1, 2, "shards"))
    stages.ended("embed_clip")
    own = Heartbeat.now(0, stages)
    assert set(own.progress) == {"train_decoder"}  # of the prior nothing is known yet
    assert Heartbeat.model_validate(own.model_dump(mode="json")) == own
    record = make_record(status="running", stages=[make_entry("train_decoder", "running")])
    document = status_document(record, life_by(record, own, own.time))
    found = document["progress"]["train_decoder"]
    assert (found["done"], found["total"], found["unit"]) == (300, 1000, "steps")
    assert found["seconds_left"] == pytest.approx(700 / found["per_second"], rel=1e-3)
    shown = render(stage_table(record, life_by(record, own, own.time)))
    assert "300 of 1,000 steps" in shown
    assert "s left" in shown
    assert "\x1b[31m" not in shown
    lost = life_by(record, own, own.time + datetime.timedelta(hours=1))
    assert "300 of" not in render(stage_table(record, lost))


def test_the_seconds_of_a_running_stage_are_those_of_the_sign_of_life(tmp_path: Path) -> None:
    """The record was written when another stage ended, and says what was so then."""
    stages = RunningStages()
    for name in ("train_prior", "train_decoder", "embed_clip"):
        stages.started(name)
    stages.note("train_prior", Progress(5, 1000, "steps"))
    stages.ended("train_decoder")
    time.sleep(0.06)
    own = Heartbeat.now(0, stages)
    seconds = own.progress["train_prior"].seconds
    assert seconds is not None
    assert seconds >= 0.06
    hours = own.model_copy(
        update={"progress": {"train_prior": own.progress["train_prior"].model_copy(update={"seconds": 7200.25})}}
    )
    entries = [
        make_entry("train_prior", "running", seconds=125.5),
        make_entry("train_decoder", seconds=125.25),
        make_entry("embed_clip", "running", seconds=125.75),  # which has reported nothing
    ]
    names = [str(entry["name"]) for entry in entries]
    plan = {name: {"fingerprint": "f", "identity": {}} for name in names}
    record = make_record(status="running", stages=entries, plan=plan)
    for life, expected in (
        (life_by(record, hours, own.time), [7200.25, 125.25, None]),
        (life_by(record, hours, own.time + datetime.timedelta(hours=1)), [None, 125.25, None]),  # a lost run
    ):
        assert [stage_node(record, name, life)["seconds"] for name in names] == expected
        assert [stage["seconds"] for stage in status_document(record, life)["stages"]] == expected
        shown = render(stage_table(record, life))
        assert "125.2" in shown
        assert "125.5" not in shown
        assert "125.8" not in shown
        assert ("7200.2" in shown) == (expected[0] is not None)
    assert "125.5" not in render(stage_table(record))


def test_a_running_run_shows_its_use_of_the_machine() -> None:
    stages = RunningStages()
    stages.started("train_decoder")
    stages.note("train_decoder", Progress(5, 1000, "steps"))
    values = {"loss": 0.5, "phase_1/data_wait_fraction": 0.125, "gpu_utilisation": 0.875, "cpu_utilisation": math.nan}
    stages.measure("train_decoder", Metrics(values, 5))
    stages.measure("train_decoder", Metrics({"gpu_memory_gigabytes": 11.53}, 6))  # of another report
    own = Heartbeat.now(0, stages)
    expected = {"data_wait_fraction": 0.125, "gpu_utilisation": 0.875, "gpu_memory_gigabytes": 11.53}
    assert own.progress["train_decoder"].used == expected
    assert Heartbeat.model_validate(own.model_dump(mode="json")) == own
    record = make_record(status="running", stages=[make_entry("train_decoder", "running")])
    life = life_by(record, own, own.time)
    assert status_document(record, life)["progress"]["train_decoder"]["used"] == expected
    shown = render(stage_table(record, life))
    assert "12.5%" in shown
    assert "GPU 88%, 11.5 GB" in shown
    stages.started("train_decoder")  # again
    stages.note("train_decoder", Progress(5, 1000, "steps"))
    assert Heartbeat.now(1, stages).progress["train_decoder"].used == {}


def test_a_sign_of_life_of_a_version_without_use_is_read() -> None:
    stages = RunningStages()
    stages.note("train_decoder", Progress(5, 1000, "steps"))
    content = Heartbeat.now(0, stages).model_dump(mode="json")
    del content["progress"]["train_decoder"]["used"], content["progress"]["train_decoder"]["seconds"]
    assert Heartbeat.model_validate(content).progress["train_decoder"].used == {}
    assert Heartbeat.model_validate(content).progress["train_decoder"].seconds is None


def test_a_running_run_shows_on_which_machines_its_stages_compute() -> None:
    stages = RunningStages()
    near, far = "node7 (10.0.0.7)", "node8\x1b[31m (10.0.0.8)"
    rows = [AtWork(near, "00003", 1200), AtWork(near), AtWork(far, "00004")]
    stages.locate("embed_clip", by_machine(rows))
    stages.locate("fit_gaussians", by_machine([AtWork(near)]))
    stages.ended("fit_gaussians")
    own = Heartbeat.now(0, stages)
    assert Heartbeat.model_validate(own.model_dump(mode="json")) == own
    record = make_record(status="running", stages=[make_entry("embed_clip", "running")])
    life = life_by(record, own, own.time)
    document = status_document(record, life)["workers"]
    assert set(document) == {"embed_clip"}
    assert [(one["workers"], one["items"]) for one in document["embed_clip"]["machines"]] == [
        (2, ["00003 (1,200 done)"]),
        (1, ["00004"]),
    ]
    shown = render(run_view(record, life))
    assert "node7 (10.0.0.7)" in shown
    assert "00003 (1,200 done), …" in shown
    assert "\x1b[31m" not in shown
    lost = life_by(record, own, own.time + datetime.timedelta(hours=1))
    assert "node7" not in render(run_view(record, lost))
    ended = make_record(status="running", stages=[make_entry("embed_clip")])  # after the last sign of life
    assert "node7" not in render(run_view(ended, life))


def test_of_many_machines_the_first_are_listed_and_the_others_counted() -> None:
    stages = RunningStages()
    stages.locate("embed_clip", by_machine(AtWork(f"node{number:04d}", "x" * 500) for number in range(1000)))
    found = Heartbeat.now(0, stages).workers["embed_clip"]
    assert (len(found.machines), found.further) == (200, 800)
    assert len(found.model_dump_json()) < 50_000


def render(table: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return str(console.file.getvalue())  # type: ignore[attr-defined]
