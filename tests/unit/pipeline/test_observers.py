"""What an observer of a run passes on."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.loading import load_config
from pipeline.logs.writer import RunLogs
from pipeline.observers import RunObserver
from pipeline.outbox.delivery import Delivery, Target
from pipeline.outbox.spool import Spool
from pipeline.plan import make_plan
from pipeline.progress import RunningStages
from pipeline.record import MlflowRuns
from pipeline.results import StageResult
from pipeline.store import Store
from pipeline.view import RunView
from stages.contract.events import Metrics, Progress
from stages.contract.stage import Allocation

NOBODY = "http://127.0.0.1:9"


def test_the_sign_of_life_learns_how_far_stages_are_and_scheduling_is_not_their_time(tmp_path: Path) -> None:
    store, stages = Store(str(tmp_path)), RunningStages()
    target = Target(NOBODY, "x", "tiny", lambda tracker: None)
    delivery = Delivery(Spool(store.tracking_folder("tiny-1")), target, MlflowRuns.at(NOBODY), lambda text: None)
    view = RunView(Console(file=io.StringIO()))
    observer = RunObserver(view, RunLogs(store, "tiny-1"), delivery, lambda runs: None, stages)
    stage = make_plan(load_config("configs/smoke.yaml"), store).stages["download_shards"]
    observer.started(stage, Allocation())
    assert stages.snapshot() == {}
    observer.event(stage.name, Progress(3, 24, "shards"))
    assert stages.snapshot()[stage.name][0].done == 3
    observer.event(stage.name, Metrics({"data_wait_fraction": 0.5}, 1))
    assert stages.used() == {stage.name: {"data_wait_fraction": 0.5}}
    first = observer.busy_seconds()
    assert 0 < first < observer.busy_seconds()  # also of a stage that is never finished
    observer.finished(StageResult(stage.name, "done", 0.5))
    assert stages.snapshot() == {}
    assert observer.busy_seconds() == pytest.approx(0.5, abs=1e-3)
