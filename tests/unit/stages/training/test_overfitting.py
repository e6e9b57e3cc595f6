"""A training whose validations became worse again says so, in one process and through the whole loop."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from stages.contract.events import Event, Metrics
from stages.training.config import BestConfig
from tests.unit.stages.training.line import LineTask
from tests.unit.stages.training.test_loop import config, run


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
