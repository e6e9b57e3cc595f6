"""The prior on one worker and on two: the same loss curve, also where two take up what one has left."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from stages.contract.events import Event, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.formats.checkpoints import checkpoint_steps
from stages.storage.artifact import Artifact, Output
from stages.train_prior import stage as train_prior
from tests.integration.processes import launch_in_forks
from tests.unit.stages.train_prior.pieces import inputs_for, prior_config

STEPS, CHECKPOINT = 8, 4
TRAINING = {
    "num_steps": STEPS, "batch_size": 16, "learning_rate": 0.01, "log_interval": 1, "precision": "float32",
    "checkpoint_interval": CHECKPOINT, "ema_decay": 0.9, "zero_stage": 2, "keep_checkpoint": False,
}  # fmt: skip
Losses = Mapping[int, float]


def run(
    kind: str, inputs: Mapping[str, Artifact], folder: Path, workers: int, *, half_trained: Path | None = None
) -> Losses:
    """Train, or go on; the folder as it stands after the checkpoint is kept beside."""
    output, losses = Output(str(folder), "train_prior", "p0"), {}

    def note(event: Event) -> None:
        if isinstance(event, Metrics) and "loss" in event.values:
            losses[event.step] = event.values["loss"]
        if half_trained is not None and not half_trained.exists() and checkpoint_steps(output):
            shutil.copytree(folder, half_trained)

    context = StageContext(note, None, launch_in_forks, Allocation(num_workers=workers))  # type: ignore[arg-type]
    train_prior.run(prior_config(kind, training=TRAINING), inputs, output, context)
    return losses


@pytest.mark.parametrize("kind", [pytest.param("shifted", marks=pytest.mark.thorough), "projection"])
def test_the_loss_curve_does_not_depend_on_the_workers(tmp_path: Path, kind: str) -> None:
    inputs, left = inputs_for(kind, tmp_path / "data", num_captions=2), tmp_path / "left"
    alone = run(kind, inputs, tmp_path / "alone", 1, half_trained=left)
    together = run(kind, inputs, tmp_path / "together", 2)
    assert sorted(alone) == list(range(1, STEPS + 1))
    assert together == pytest.approx(alone, rel=1e-4)
    assert checkpoint_steps(Output(str(left), "train_prior", "p0")) == [CHECKPOINT]
    resumed = run(kind, inputs, left, 2)
    assert sorted(resumed) == list(range(CHECKPOINT + 1, STEPS + 1))
    assert resumed == pytest.approx({step: together[step] for step in resumed}, rel=1e-4)
