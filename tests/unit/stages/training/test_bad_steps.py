"""Steps whose loss or gradient is no number, or jumps: training stops, skips them, or rolls back."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.contract.errors import Diverged
from stages.contract.events import Metrics
from stages.formats.checkpoints import TrainedRecord, checkpoint_steps, read_checkpoint
from stages.training.config import TrainingConfig
from stages.training.task import Batch, BatchPart
from tests.unit.stages.training.line import BadTask, LineTask
from tests.unit.stages.training.line_training import assert_same, config, output_of, run, weights


@pytest.mark.parametrize("stage", [0, 2])
def test_training_stops_at_a_gradient_that_is_not_finite_and_keeps_the_checkpoint_before(
    tmp_path: Path, stage: int
) -> None:
    with pytest.raises(Diverged, match=r"a gradient was not finite, .* before step 8: .*training\.bad_steps"):
        run(tmp_path, config(log_interval=50, zero_stage=stage), BadTask(bad_at=6))
    assert checkpoint_steps(output_of(tmp_path)) == [4]
    assert all(tensor.isfinite().all() for tensor in read_checkpoint(output_of(tmp_path), 4).state["weights"].values())


def test_a_bad_step_is_skipped_and_all_others_are_as_if_it_had_not_been(tmp_path: Path) -> None:
    settings = config(bad_steps="skip", log_interval=4, ema_decay=0.0)
    _, events = run(tmp_path, settings, BadTask(bad_at=6))
    skipped = [e for e in events if isinstance(e, Metrics) and "skipped_steps" in e.values]
    assert [(e.step, e.values["skipped_steps"]) for e in skipped] == [(8, 1.0)]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    with pytest.raises(Diverged, match="at 4 steps, one after another"):
        run(tmp_path / "all", settings, AlwaysBadTask())


class AlwaysBadTask(LineTask):
    """Has no sample with a finite loss."""

    def prepare(self, part: BatchPart) -> Batch:
        return {name: tensor * float("inf") for name, tensor in super().prepare(part).items()}


@pytest.mark.parametrize("stage", [0, 1])
def test_training_rolls_back_and_passes_over_the_bad_samples(tmp_path: Path, stage: int) -> None:
    settings = config(bad_steps="roll_back", zero_stage=stage)
    _, events = run(tmp_path, settings, BadTask(bad_at=6))
    seen = [e.step for e in events if isinstance(e, Metrics) and "loss" in e.values]
    assert seen == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10, 11, 12]  # the seventh is bad; back to the checkpoint at 4
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    with pytest.raises(Diverged, match="after going back to step 0 3 times"):
        run(tmp_path / "always", settings, AlwaysBadTask())


class StepsTask(BadTask):
    """Notes step and step of the samples of each batch that it makes."""

    def __init__(self, *, bad_at: int) -> None:
        super().__init__(bad_at=bad_at)
        self.made: list[tuple[int, int]] = []

    def prepare(self, part: BatchPart) -> Batch:
        self.made.append((part.step, part.data_step))
        return super().prepare(part)


def test_after_a_roll_back_steps_are_counted_as_ever_and_their_samples_are_others(tmp_path: Path) -> None:
    """Phases and intervals of a training go by the step: it is not the one whose samples are taken."""
    task = StepsTask(bad_at=6)
    run(tmp_path, config(bad_steps="roll_back", prefetch_batches=1), task)
    again = task.made[task.made.index((4, 7)) :]  # back at the checkpoint of step 4
    assert again[:8] == [(step, step + 3) for step in range(4, 12)]  # and then a validation
    cut = StepsTask(bad_at=6)
    cut.fail_at = 13
    with pytest.raises(ValueError, match="no data for step 13"):
        run(tmp_path / "cut", config(bad_steps="roll_back"), cut)
    resumed = StepsTask(bad_at=6)
    run(tmp_path / "cut", config(bad_steps="roll_back"), resumed)
    assert resumed.made[-5:-1] == [(8, 11), (9, 12), (10, 13), (11, 14)]


class WorseningTask(BadTask):
    """Has no sample with a finite loss from some step on."""

    def prepare(self, part: BatchPart) -> Batch:
        self.bad_at = max(self.bad_at, part.data_step)
        return super().prepare(part)


def test_a_checkpoint_that_could_not_be_written_is_an_error_and_no_roll_back(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("no folder")
    with pytest.raises(OSError, match="checkpoints"):
        run(tmp_path, config(bad_steps="roll_back", async_checkpoints=True), WorseningTask(bad_at=6))


def test_where_samples_are_passed_over_is_kept_over_a_restart(tmp_path: Path) -> None:
    settings, task = config(bad_steps="roll_back"), BadTask(bad_at=6)
    task.fail_at = 13  # step 10 after the roll back, as 3 steps of samples were passed over
    with pytest.raises(ValueError, match="no data for step 13"):
        run(tmp_path / "cut", settings, task)
    run(tmp_path / "cut", settings, BadTask(bad_at=6))
    run(tmp_path / "whole", settings, BadTask(bad_at=6))
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def _cut_at(folder: Path, settings: TrainingConfig, fail_at: int, bad_at: int) -> None:
    task = BadTask(bad_at=bad_at)
    task.fail_at = fail_at
    with pytest.raises(ValueError, match=f"no data for step {fail_at}"):
        run(folder, settings, task)


@pytest.mark.parametrize("bad_at", [1, 3])
def test_a_training_that_skipped_a_step_goes_on_as_if_it_had_not_been_cut(tmp_path: Path, bad_at: int) -> None:
    """Also where the bad step was the last before the checkpoint: its samples would spoil the weights."""
    settings = config(bad_steps="skip", log_interval=4)
    _cut_at(tmp_path / "cut", settings, fail_at=6, bad_at=bad_at)
    assert checkpoint_steps(output_of(tmp_path / "cut")) == [4]
    for folder in ("cut", "whole"):
        run(tmp_path / folder, settings, BadTask(bad_at=bad_at))
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("stage", [0, 2])
def test_a_training_that_rolled_back_goes_on_from_a_later_checkpoint(tmp_path: Path, stage: int) -> None:
    settings = config(bad_steps="roll_back", log_interval=4, zero_stage=stage)
    _cut_at(tmp_path, settings, fail_at=13, bad_at=7)  # with four steps of samples passed over: after step 8
    assert checkpoint_steps(output_of(tmp_path))[-1] == 8
    run(tmp_path, settings, BadTask(bad_at=7))
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_a_roll_back_to_a_checkpoint_before_a_damaged_one_passes_over_the_bad_samples(tmp_path: Path) -> None:
    class Damaging(BadTask):
        """Has the newest checkpoint damaged before the bad step."""

        def prepare(self, part: BatchPart) -> Batch:
            if part.data_step == self.bad_at:
                for file in tmp_path.glob("checkpoints/*8*/weights*"):
                    file.write_bytes(b"rot")
            return super().prepare(part)

    settings = config(bad_steps="roll_back", async_checkpoints=False, prefetch_batches=1)
    run(tmp_path, settings, Damaging(bad_at=10))
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


@pytest.mark.parametrize("best", [None, {"metric": "validation_loss", "mode": "lowest"}])
def test_bad_steps_are_noticed_before_a_validation(tmp_path: Path, best: dict[str, str] | None) -> None:
    settings = config(bad_steps="roll_back", log_interval=4, validation_interval=3, checkpoint_interval=2, best=best)
    _, events = run(tmp_path, settings, BadTask(bad_at=2))
    found = [e.values["validation_loss"] for e in events if isinstance(e, Metrics) and "validation_loss" in e.values]
    assert len(found) == 4
    assert all(math.isfinite(value) for value in found)


def test_the_best_weights_of_steps_that_are_taken_again_stay_also_over_a_restart(tmp_path: Path) -> None:
    best = {"metric": "validation_loss", "mode": "highest"}  # so that the first is the best
    settings = config(bad_steps="roll_back", log_interval=4, validation_interval=3, checkpoint_interval=2, best=best)
    _, events = run(tmp_path / "whole", settings, BadTask(bad_at=3))  # validated after step 3, then back to step 2
    found = [e for e in events if isinstance(e, Metrics) and "validation_loss" in e.values]
    assert [one.step for one in found][:2] == [3, 3]
    assert found[0].values["validation_loss"] > max(one.values["validation_loss"] for one in found[1:])
    _cut_at(tmp_path / "cut", settings, fail_at=6, bad_at=3)
    run(tmp_path / "cut", settings, BadTask(bad_at=3))
    for folder in ("whole", "cut"):
        kept = TrainedRecord.of(output_of(tmp_path / folder)).metrics
        assert (kept["best_step"], kept["validation_loss"]) == (3, found[0].values["validation_loss"])
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("log_interval", [1, 2, 12])
def test_how_many_bad_steps_in_a_row_end_a_training_is_not_up_to_how_often_it_logs(
    tmp_path: Path, log_interval: int
) -> None:
    settings = config(bad_steps="skip", log_interval=log_interval, ema_decay=0.0)
    run(tmp_path / "one", settings, BadTask(bad_at=6))
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "one").values())
    with pytest.raises(Diverged, match=r"at \d+ steps, one after another"):
        run(tmp_path / "all", settings, AlwaysBadTask())


def test_a_jump_of_the_gradient_is_bad_where_it_is_configured(tmp_path: Path) -> None:
    settings = config(num_steps=30, bad_steps="skip", spike_factor=50.0, log_interval=10, warmup_steps=0)
    _, events = run(tmp_path, settings, BadTask(bad_at=25, factor=1e6))
    assert [e.step for e in events if isinstance(e, Metrics) and "skipped_steps" in e.values] == [28]
    _, events = run(
        tmp_path / "not", settings.model_copy(update={"spike_factor": None}), BadTask(bad_at=25, factor=1e6)
    )
    assert not [e for e in events if isinstance(e, Metrics) and "skipped_steps" in e.values]


def test_steps_cannot_be_skipped_under_zero() -> None:
    with pytest.raises(ValidationError, match="bad_steps is skip and zero_stage is 1"):
        config(bad_steps="skip", zero_stage=1)
