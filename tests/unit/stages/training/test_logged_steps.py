"""What a training has logged is kept with its checkpoints, and reported again where it goes on and at its end."""

from pathlib import Path
from typing import Any

import pytest

from cluster.training import launch_in_process
from stages.contract.events import MOST_ROWS, Event, LoggedSteps, Metrics, RolledBack
from stages.contract.stage import Allocation, StageContext
from stages.formats.checkpoints import TrainedRecord, read_checkpoint
from stages.formats.training_logs import TRAINING_LOG, write_log
from stages.training.config import TrainingPart
from stages.training.launch import train
from stages.training.task import Batch, BatchPart
from tests.unit.stages.training.line import BadTask, LineTask
from tests.unit.stages.training.line_training import assert_same, config, losses, output_of, run, weights


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
    assert list(read_checkpoint(output_of(tmp_path), 8).logged.rows) == kept
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


ROLLING = {"bad_steps": "roll_back", "log_interval": 2, "async_checkpoints": False}
"""With a bad step of samples 7: noticed after step 8, and gone back to the checkpoint of step 4."""


def until_failure(folder: Path, fail_at: int, bad_at: int = 7, **changes: Any) -> list[Event]:
    """Train until the samples of a step fail, as if the process was killed then; return what was reported."""
    events, task = list[Event](), BadTask(bad_at=bad_at)
    task.fail_at = fail_at
    context = StageContext(events.append, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"no data for step {fail_at}"):
        train(lambda: task, config(**ROLLING | changes), seed=3, output=output_of(folder), context=context)
    return events


def roll_backs(events: list[Event]) -> list[RolledBack]:
    return [event for event in events if isinstance(event, RolledBack)]


def reported(events: list[Event]) -> list[Metrics]:
    return [event.without_measures() for event in events if isinstance(event, Metrics)]


def test_a_roll_back_is_reported_before_the_steps_that_are_taken_again(tmp_path: Path) -> None:
    _, events = run(tmp_path, config(**ROLLING, validation_interval=3), BadTask(bad_at=7))
    (found,) = roll_backs(events)
    assert (found.to_step, found.from_step) == (4, 8)
    at = events.index(found)
    before, after = reported(events[:at]), reported(events[at:])
    assert [row.step for row in before if "loss" in row.values] == [2, 4, 6]
    assert [row.step for row in after if "loss" in row.values] == [6, 8, 10, 12]
    assert {row.step for row in before if found.discards(row.step, row.time)} == {6}  # its loss, and its validation
    assert not any(found.discards(row.step, row.time) for row in after)
    last = events[-1]
    assert isinstance(last, LoggedSteps)
    assert last.roll_backs == (found,)
    assert list(last.rows) == [row for row in before if row.step <= 4] + after


def test_a_training_that_is_killed_after_a_roll_back_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    before = until_failure(tmp_path / "cut", fail_at=10)  # step 6 after the roll back, so before a checkpoint
    (found,) = roll_backs(before)
    assert [row.step for row in reported(before)] == [2, 4, 6, 6]
    again = until_failure(tmp_path / "cut", fail_at=11)
    _, events = run(tmp_path / "cut", config(**ROLLING), BadTask(bad_at=7))
    kept = tuple(row for row in reported(before) if row.step <= 4)
    assert again[0] == events[0] == LoggedSteps(kept, (found,))
    assert roll_backs(again) == roll_backs(events) == []  # the bad samples are passed over, and not taken again
    assert reported(before)[-1].values["loss"] == losses(again)[6] == losses(events)[6]
    last = events[-1]
    assert isinstance(last, LoggedSteps)
    assert last == LoggedSteps(kept + tuple(reported(events)), (found,))
    run(tmp_path / "whole", config(**ROLLING), BadTask(bad_at=7))
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_second_roll_back_and_a_checkpoint_after_it_keep_both(tmp_path: Path) -> None:
    class TwiceBadTask(BadTask):
        """Has a second bad step among the samples after the first one."""

        def prepare(self, part: BatchPart) -> Batch:
            self.bad_at = 7 if part.data_step < 9 else 10
            return super().prepare(part)

    _, events = run(tmp_path, config(**ROLLING), TwiceBadTask(bad_at=7))
    found = roll_backs(events)
    assert [(one.to_step, one.from_step) for one in found] == [(4, 8), (4, 8)]
    assert found[0].time < found[1].time
    (last,) = [event for event in events if isinstance(event, LoggedSteps)]
    assert last.roll_backs == tuple(found)
    assert [row.step for row in last.rows if "loss" in row.values] == [2, 4, 6, 8, 10, 12]
    assert not any(one.discards(row.step, row.time) for one in found for row in last.rows)


def test_from_a_checkpoint_before_the_one_that_was_gone_back_to_the_same_steps_are_taken(tmp_path: Path) -> None:
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    before = until_failure(cut, fail_at=13, bad_at=9)
    (first,) = roll_backs(before)
    assert (first.to_step, first.from_step) == (8, 10)
    for file in cut.glob("checkpoints/*8/weights*"):
        file.write_bytes(b"rot")
    _, events = run(cut, config(**ROLLING), BadTask(bad_at=9))
    (second,) = roll_backs(events)
    assert (second.to_step, second.from_step) == (8, 10)
    last = events[-1]
    assert isinstance(last, LoggedSteps)
    assert last.roll_backs == (first, second)
    assert [row.step for row in last.rows if "loss" in row.values] == [2, 4, 6, 8, 10, 12]
    assert not any(one.discards(row.step, row.time) for one in last.roll_backs for row in last.rows)
    run(whole, config(**ROLLING), BadTask(bad_at=9))
    assert_same(weights(cut), weights(whole))
    assert not output_of(cut).exists("checkpoints/roll_backs.json")


def test_a_roll_back_of_a_part_is_reported_at_the_steps_of_the_whole() -> None:
    logged = LoggedSteps((Metrics({"loss": 1.0}, 4),), (RolledBack(4, 8, 1000),))
    student = TrainingPart(prefix="student_", first_step=100)
    expected = LoggedSteps((Metrics({"student_loss": 1.0}, 104),), (RolledBack(104, 108, 1000),))
    assert student.logged(logged) == expected


def test_one_event_holds_so_many_rows_at_most(tmp_path: Path) -> None:
    logged = tuple(Metrics({"loss": 1.0}, step) for step in range(2 * MOST_ROWS + 1))
    with output_of(tmp_path).collecting():
        write_log(output_of(tmp_path), TRAINING_LOG, LoggedSteps(logged))
        TrainedRecord(step=12, metrics={}).write(output_of(tmp_path))
    _, events = run(tmp_path, config())
    assert [len(event.rows) for event in events if isinstance(event, LoggedSteps)] == [MOST_ROWS, MOST_ROWS, 1]
    assert tuple(rows(events)) == logged
    whole = LoggedSteps(logged, (RolledBack(1, 2, 0),))
    assert [part.roll_backs for part in whole.split()] == [whole.roll_backs, (), ()]
    assert list(LoggedSteps().split()) == []
    assert list(LoggedSteps((), whole.roll_backs).split()) == [LoggedSteps((), whole.roll_backs)]
