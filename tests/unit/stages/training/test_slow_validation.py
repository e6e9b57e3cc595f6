"""The progress of a training moves while it validates."""

from pathlib import Path

from stages.contract.events import Metrics, Progress
from tests.unit.stages.training.line import LineTask
from tests.unit.stages.training.line_training import config, run


def test_a_slow_validation_is_reported(tmp_path: Path) -> None:
    settings = config(num_steps=2, checkpoint_interval=2, warmup_steps=1)
    result, events = run(tmp_path / "slow", settings, LineTask(validation_pause=1.0))
    last = events.index(next(event for event in events if isinstance(event, Metrics) and event.step == 2))
    during = [event for event in events[last:] if isinstance(event, Progress)]
    assert [(event.done, event.total) for event in during] == [(2, 2)] * len(during)
    assert len({event.note for event in during}) >= 2
    assert all(event.note.startswith("validating for ") for event in during)
    assert result.metrics["validation_loss"] == run(tmp_path / "quick", settings)[0].metrics["validation_loss"]
