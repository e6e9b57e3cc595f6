"""What the dashboard says of runs: supervision, intervals, the state of each stage, and what differs."""

import datetime
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.dashboard.runs import HEADLINE, differences, direction, run_document, run_table, supervision
from pipeline.dashboard.units import UnitStates
from pipeline.heartbeat import Heartbeat, StageProgress
from pipeline.record import RunRecord
from pipeline.store import Store
from tests.factories import make_entry, make_record

PRIOR = {"train_prior": {"fingerprint": "p", "identity": {"kind": "shifted", "captions": {"fraction": 0.1, "seed": 0}}}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path))
    made.open_for_writing()
    return made


def prior_record(fraction: float = 0.1, captioned: int = 80, **changes: Any) -> RunRecord:
    plan = {"train_prior": {"fingerprint": "p", "identity": {"captions": {"fraction": fraction, "seed": 0}}}}
    download = make_entry("download_shards", counts={"images": 100, "captioned": captioned})
    return make_record(plan=plan, stages=[download], **changes)


def test_five_hundred_runs_are_listed_at_once(store: Store) -> None:
    metrics = {f"train_prior/cosine_z_0/time_{number}": 0.5 for number in range(200)} | dict.fromkeys(HEADLINE, 0.25)
    stages = [make_entry(name) for name in ("download_shards", "embed_clip", "train_prior", "train_decoder")]
    for number in range(500):
        store.write_run(make_record(f"sweep-{number:08x}", plan=PRIOR, stages=stages, metrics=metrics))
    began = time.process_time()
    found = run_table(store)
    assert time.process_time() - began < 10  # 0.4 s, and more where coverage is measured
    assert len(found["runs"]) == 500
    assert found["shown"] == list(HEADLINE)
    assert len(found["metrics"]) == 200 + len(HEADLINE)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (prior_record(0.1, 80), ("semi-supervised", pytest.approx(0.08))),
        (prior_record(1.0, 80), ("semi-supervised", pytest.approx(0.8))),
        (prior_record(1.0, 100), ("supervised", 1.0)),
        (prior_record(0.1, 80, config={"embed_clip": {"texts": False}}), ("language-free", 0.0)),
        (make_record(plan={"train_prior": {"fingerprint": "p", "identity": {"text_dropout": 1.0}}}),
         ("language-free", 0.0)),
        (make_record(), ("no prior", None)),
    ],
)  # fmt: skip
def test_how_a_run_was_supervised(record: RunRecord, expected: tuple[str, float | None]) -> None:
    assert supervision(record) == expected


def test_a_metric_has_its_interval_its_protocol_and_its_note(store: Store) -> None:
    name = "evaluate/frechet_distance"
    measure = {"value": 3.0, "low": 2.5, "high": 3.5, "n": 240, "protocol": "a1"}
    entry = make_entry("evaluate", notes={"frechet_distance": "by CLIP"})
    metrics = {name: 3.0, "evaluate/accuracy/both": 0.5}
    store.write_run(make_record(metrics=metrics, measures={name: measure}, stages=[entry]))
    (row,) = run_table(store)["runs"]
    assert row["metrics"][name] == measure | {"about": "by CLIP"}
    assert row["metrics"]["evaluate/accuracy/both"] == {"value": 0.5}


def test_a_running_stage_shows_how_far_it_is(store: Store) -> None:
    stages = [make_entry("download_shards", "running")]
    plan: dict[str, Any] = {name: {"fingerprint": name, "identity": {}} for name in ("download_shards", "embed_clip")}
    record = make_record(status="running", stages=stages, plan=plan)
    store.write_run(record)
    output = store.output("download_shards", "download_shards")
    output.write_plan(4)
    output.finish_unit("00001", {"rows": 1})
    used = {"data_wait_fraction": 0.25, "gpu_memory_gigabytes": 11.5}
    progress = StageProgress(done=1, total=4, unit="shards", per_second=0.5, seconds_left=6.0, used=used)
    beat = Heartbeat.now(3).model_copy(update={"progress": {"download_shards": progress}})
    store.write_heartbeat(record.run, beat.model_dump(mode="json"))
    found = run_document(record, store, UnitStates())
    assert found["driver"]["pid"] == beat.pid
    download, embed = found["graph"]
    assert (download["state"], download["progress"]["seconds_left"], embed["state"]) == ("running", 6.0, "waiting")
    assert (download["units"]["done"], download["units"]["parts"]) == (1, [0, 1, 0, 0])
    assert download["used"] == used


def test_a_stage_that_has_trained_shows_what_it_recorded_of_its_use(store: Store) -> None:
    metrics = {"train_prior/gpu_memory_gigabytes": 7.5, "train_prior/cosine_true": 0.5}
    record = make_record(plan=PRIOR, stages=[make_entry("train_prior")], metrics=metrics)
    assert run_document(record, store, UnitStates())["graph"][0]["used"] == {"gpu_memory_gigabytes": 7.5}


def test_a_stage_of_a_lost_run_is_lost(store: Store) -> None:
    plan = {"download_shards": {"fingerprint": "d", "identity": {}}}
    record = make_record(status="running", stages=[make_entry("download_shards", "running")], plan=plan)
    old = Heartbeat.now(0).model_copy(
        update={"time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "machine": "another"}
    )
    store.write_heartbeat(record.run, old.model_dump(mode="json"))
    assert run_document(record, store, UnitStates())["graph"][0]["state"] == "lost"


def test_what_differs_between_configs() -> None:
    first, second = (
        make_record(config={"seed": 0, "a": {"b": 1, "c": 2}}),
        make_record(config={"seed": 0, "a": {"b": 3}}),
    )
    assert differences([first, second]) == [
        {"key": "a.b", "values": ["1", "3"]},
        {"key": "a.c", "values": ["2", None]},
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("evaluate/frechet_distance", "lower"), ("train_decoder/held_out_loss", "lower"),
     ("evaluate/accuracy/both", "higher"), ("train_decoder/samples_per_second", "higher"),
     ("train_decoder/seconds", "lower"), ("train_prior/cosine_z_0/time_250", "higher"),
     ("evaluate/cosine/unrelated", None), ("train_prior/cosine_z_0_unrelated/time_250", None),
     ("evaluate/frechet_distance/true_halves", None), ("train_prior/norm_ratio/steps_4", None),
     ("evaluate/chance/both", None), ("train_prior/reference/frechet", None), ("evaluate/control/unrelated/both", None),
     ("fit_gaussians/iterations", None)],
)  # fmt: skip
def test_whether_less_is_better_more_or_neither(name: str, expected: str | None) -> None:
    assert direction(name) == expected
