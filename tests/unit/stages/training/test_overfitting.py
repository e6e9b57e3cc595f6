"""A training whose validations became worse again says so, in one process and through the whole loop."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import nn

from stages.contract.events import Event, Metrics
from stages.training.config import BestConfig
from tests.unit.stages.training.line import LineTask
from tests.unit.stages.training.line_training import config, run


class ForgettingTask(LineTask):
    """Validates the better the earlier it is."""

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        return [Metrics({"held_out_loss": 1.0 + step / 10}, step)]


def test_a_validation_that_becomes_worse_is_reported(tmp_path: Path) -> None:
    found, _ = run(tmp_path / "worse", config(validation_interval=4), ForgettingTask())
    assert found.notes["overfitting"].startswith("held_out_loss was 1.4 at step 4 and 2.2 at step 12: stop there")
    best = BestConfig(metric="held_out_loss", mode="lowest")
    found, _ = run(tmp_path / "best", config(validation_interval=4, best=best), ForgettingTask())
    assert found.notes["overfitting"].endswith("the weights of the best validation are kept")
    found, _ = run(tmp_path / "fine", config(validation_interval=4))
    assert "overfitting" not in found.notes


def test_a_loss_by_which_weights_cannot_be_compared_is_not_reported(tmp_path: Path) -> None:
    class WithAdversary(ForgettingTask):
        def has_direction(self, metric: str, step: int) -> bool:
            return step < 8

    found, _ = run(tmp_path, config(validation_interval=4), WithAdversary())
    assert "overfitting" not in found.notes


def test_validations_before_a_restart_are_remembered(tmp_path: Path) -> None:
    class Stopped(ForgettingTask):
        def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
            if step == 8:
                raise KeyboardInterrupt
            return super().validate(model, step)

    settings = config(validation_interval=4, checkpoint_interval=6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", settings, Stopped())
    found, _ = run(tmp_path / "cut", settings, ForgettingTask())  # from step 6, after the validation of step 4
    assert found.notes["overfitting"].startswith("held_out_loss was 1.4 at step 4 and 2.2 at step 12")
