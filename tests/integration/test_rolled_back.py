"""A training that rolls back, against a real MLflow on SQLite: of steps that are taken again, the second try counts."""

import io
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from cluster.training import launch_in_process
from pipeline.outbox.delivery import Delivery, Target
from pipeline.outbox.operations import ImageLogged, MetricsLogged, RollBackLogged, StageBegun, StepsLogged
from pipeline.outbox.spool import Spool
from pipeline.record import MlflowRuns
from pipeline.store import Store
from pipeline.tracked_runs import image_steps, metric_history, read_image
from pipeline.tracking import RunTracker
from pipeline.tracking_address import default_tracking_uri
from pipeline.tracking_state import ROLLED_BACK_TO
from stages.contract.events import Event, LoggedImage, LoggedSteps, Metrics, RolledBack
from stages.contract.stage import Allocation, StageContext
from stages.training.launch import train
from tests.unit.stages.training.line import BadTask
from tests.unit.stages.training.line_training import config, output_of

STAGE = "train_prior"
FIRST, SECOND = RolledBack(10, 30, 3000), RolledBack(20, 30, 6000)


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return default_tracking_uri(tmp_path)


def report(tracker: RunTracker, *events: Event) -> None:
    """Give the tracker what a stage reports, as the delivery of a run does."""
    for event in events:
        with tracker.as_of(getattr(event, "time", 0) or time.time_ns() // 1_000_000):
            tracker.stage_event(STAGE, event)


def curve(uri: str, tracker: RunTracker, name: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in metric_history(uri, tracker.runs.stages[STAGE], name)]


def logged(step: int, loss: float, time: int) -> Metrics:
    return Metrics({"loss": loss}, step, time=time)


def test_what_was_sent_before_a_roll_back_no_longer_counts_and_what_waits_is_dropped(uri: str) -> None:
    tracker = RunTracker.open(uri, "shapes", "run", None)
    report(tracker, logged(10, 1.0, 1000), logged(20, 2.0, 2000), LoggedImage("grid", png("red"), 20, time=2001))
    tracker.flush()
    report(tracker, logged(25, 2.5, 2500), FIRST)
    tracker.flush()
    assert curve(uri, tracker) == [(10, 1.0)]
    assert image_steps(uri, tracker.runs.stages[STAGE]) == {}
    report(tracker, logged(20, 2.2, 4000), LoggedImage("grid", png("blue"), 20, time=4001))
    tracker.flush()
    assert curve(uri, tracker) == [(10, 1.0), (20, 2.2)]
    assert curve(uri, tracker, ROLLED_BACK_TO) == [(30, 10.0)]
    run_id = tracker.runs.stages[STAGE]
    (path,) = image_steps(uri, run_id)["grid"].values()
    with Image.open(io.BytesIO(read_image(uri, run_id, path))) as image:
        assert image.getpixel((0, 0)) == (0, 0, 255)
    held = [(one.step, one.value) for one in MlflowClient(uri).get_metric_history(run_id, "loss")]
    assert sorted(held) == [(10, 1.0), (20, 2.0), (20, 2.2)]  # MLflow deletes nothing


def test_a_tracker_that_is_opened_again_knows_what_counts_and_records_each_once(uri: str) -> None:
    killed = RunTracker.open(uri, "shapes", "run", None)
    report(killed, logged(10, 1.0, 1000), logged(20, 2.0, 2000), FIRST, logged(20, 2.2, 4000), logged(30, 3.3, 5000))
    report(killed, SECOND)  # from the same step, to a later one
    killed.flush()
    tracker = RunTracker.open(uri, "shapes", "run", killed.runs)
    kept = LoggedSteps((logged(10, 1.0, 1000), logged(20, 2.2, 4000), logged(30, 3.4, 7000)), (FIRST, SECOND))
    report(tracker, logged(20, 2.0, 2000), logged(30, 3.3, 5000))  # lines that an outbox had kept, and sends again
    for _ in range(2):
        report(tracker, kept)
        tracker.flush()
    assert curve(uri, tracker) == [(10, 1.0), (20, 2.2), (30, 3.4)]
    run_id = tracker.runs.stages[STAGE]
    held = [(one.value, one.timestamp) for one in MlflowClient(uri).get_metric_history(run_id, ROLLED_BACK_TO)]
    assert sorted(held) == [(10.0, 3000), (20.0, 6000)]


def test_a_roll_back_that_the_killed_process_did_not_report_is_made_up_for_by_the_log(uri: str) -> None:
    killed = RunTracker.open(uri, "shapes", "run", None)
    report(killed, logged(10, 1.0, 1000), logged(20, 2.0, 2000))
    killed.flush()
    tracker = RunTracker.open(uri, "shapes", "run", killed.runs)
    report(tracker, LoggedSteps((logged(10, 1.0, 1000),), (FIRST,)), logged(20, 2.2, 4000))
    tracker.flush()
    assert curve(uri, tracker) == [(10, 1.0), (20, 2.2)]


def test_lines_that_are_not_sent_yet_are_dropped_however_many_they_are(uri: str, tmp_path: Path) -> None:
    spool = Spool(Store(str(tmp_path / "store")).tracking_folder("tiny-1"))
    delivery = Delivery(spool, Target(uri, "shapes", "tiny", lambda tracker: None), MlflowRuns.at(uri), print)
    delivery.put(StageBegun(stage=STAGE, config={}))
    for step in range(1, 501):  # more than go in one call
        delivery.put(MetricsLogged.of(STAGE, logged(step, 1.0, step)))
    delivery.put(ImageLogged.of(STAGE, LoggedImage("grid", png("red"), 400, time=400)))
    delivery.put(MetricsLogged.of("train_decoder", logged(300, 1.0, 300)))  # another stage
    delivery.put(RollBackLogged.of(STAGE, RolledBack(10, 500, 500)))
    delivery.put(MetricsLogged.of(STAGE, logged(11, 2.0, 600)))
    delivery.start()
    assert delivery.close(60.0) == 0
    client, runs = MlflowClient(uri), delivery.runs
    held = [(one.step, one.value) for one in client.get_metric_history(runs.stages[STAGE], "loss")]
    assert sorted(held) == [*((step, 1.0) for step in range(1, 11)), (11, 2.0)]
    assert [one.step for one in client.get_metric_history(runs.stages["train_decoder"], "loss")] == [300]
    assert image_steps(uri, runs.stages[STAGE]) == {}


def test_a_training_that_rolls_back_and_is_killed_and_goes_on_has_each_step_once(uri: str, tmp_path: Path) -> None:
    """It logs each second step, has a checkpoint at step 4, bad samples at step 7, and is killed after step 6."""
    settings = config(bad_steps="roll_back", log_interval=2, async_checkpoints=False)
    runs = MlflowRuns.at(uri)
    for fail_at in (10, None):
        tracker, task = RunTracker.open(uri, "shapes", "run", runs), BadTask(bad_at=7)
        task.fail_at = fail_at

        def emit(event: Event, tracker: RunTracker = tracker) -> None:
            if isinstance(event, LoggedSteps):
                event = StepsLogged.of(STAGE, event).event()
            if isinstance(event, Metrics | LoggedSteps | RolledBack):
                report(tracker, event)
                tracker.flush()

        context = StageContext(emit, None, launch_in_process, Allocation())  # type: ignore[arg-type]
        output = output_of(tmp_path / "line")
        if fail_at:
            with pytest.raises(ValueError, match="no data for step 10"):
                train(lambda task=task: task, settings, seed=3, output=output, context=context)  # type: ignore[misc]
        else:
            train(lambda task=task: task, settings, seed=3, output=output, context=context)  # type: ignore[misc]
        runs = tracker.runs
    rows = output.read_json("training_log.json")["rows"]
    assert [step for step, _, values in rows if "loss" in values] == [2, 4, 6, 8, 10, 12]
    assert curve(uri, tracker) == [(step, values["loss"]) for step, _, values in rows if "loss" in values]
    held = MlflowClient(uri).get_metric_history(runs.stages[STAGE], "loss")
    assert sorted(one.step for one in held) == [2, 4, 6, 6, 8, 10, 12]  # step 6 of both tries, and no more
    assert curve(uri, tracker, ROLLED_BACK_TO) == [(8, 4.0)]
