"""What a training has logged is kept with its checkpoints, and reported again where it goes on and at its end."""

from pathlib import Path

import pytest

from cluster.training import launch_in_process
from stages.contract.events import MOST_ROWS, Event, LoggedSteps, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.formats.checkpoints import TrainedRecord, read_checkpoint
from stages.formats.training_logs import TRAINING_LOG, write_log
from stages.training.launch import train
from tests.unit.stages.training.line import BadTask, LineTask
from tests.unit.stages.training.line_training import config, output_of, run


def rows(events: list[Event]) -> list[Metrics]:
    return [row for event in events if isinstance(event, LoggedSteps) for row in event.rows]


def test_what_was_logged_is_reported_again_where_training_goes_on_and_at_its_end(tmp_path: Path) -> None:
    settings, before = config(validation_interval=3), list[Event]()
    context = StageContext(before.append, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no data for step 10"):
        train(lambda: LineTask(fail_at=10), settings, seed=3, output=output_of(tmp_path), context=context)
    reported = [event.without_measures() for event in before if isinstance(event, Metrics)]
    kept = [row for row in reported if row.step <= 8]
    assert rows(before) == []
    assert all(row.time > 1e12 for row in reported)
    assert list(read_checkpoint(output_of(tmp_path), 8).logged) == kept
    assert [row.step for row in kept] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8]

    _, after = run(tmp_path, settings)
    assert after[0] == LoggedSteps(tuple(kept))  # before it does anything
    rest = [event.without_measures() for event in after if isinstance(event, Metrics)]
    assert [row.step for row in rest] == [9, 9, 10, 11, 12, 12]
    assert after[-1] == LoggedSteps(tuple(kept + rest))
    _, again = run(tmp_path, settings)
    assert again == [after[-1]]


def test_steps_that_were_rolled_back_are_kept_once_and_those_that_were_skipped_too(tmp_path: Path) -> None:
    _, events = run(tmp_path, config(bad_steps="roll_back"), BadTask(bad_at=6))
    assert [row.step for row in rows(events) if "loss" in row.values] == list(range(1, 13))
    settings = config(num_steps=30, bad_steps="skip", spike_factor=50.0, log_interval=10, warmup_steps=0)
    _, events = run(tmp_path / "skip", settings, BadTask(bad_at=25, factor=1e6))
    assert [row.step for row in rows(events) if "skipped_steps" in row.values] == [28]


def test_one_event_holds_so_many_rows_at_most(tmp_path: Path) -> None:
    logged = tuple(Metrics({"loss": 1.0}, step) for step in range(2 * MOST_ROWS + 1))
    with output_of(tmp_path).collecting():
        write_log(output_of(tmp_path), TRAINING_LOG, logged)
        TrainedRecord(step=12, metrics={}).write(output_of(tmp_path))
    _, events = run(tmp_path, config())
    assert [len(event.rows) for event in events if isinstance(event, LoggedSteps)] == [MOST_ROWS, MOST_ROWS, 1]
    assert tuple(rows(events)) == logged
