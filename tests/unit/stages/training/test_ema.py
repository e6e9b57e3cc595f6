"""The averaged weights follow the recurrence in every ZeRO stage, and are what is validated and saved."""

from pathlib import Path

import pytest
import torch

from cluster.training import launch_in_process
from stages.contract.stage import Allocation, StageContext
from stages.formats.checkpoints import checkpoint_steps, read_checkpoint
from stages.storage.artifact import Output
from stages.training.config import TrainingConfig
from stages.training.launch import train
from tests.unit.stages.training.line import LineTask

DECAY, STEPS = 0.4, 7


def output_of(folder: Path) -> Output:
    return Output(str(folder), "train_line", "f0")


def run(folder: Path, task: LineTask, *, zero_stage: int, decay: float = DECAY) -> None:
    config = TrainingConfig(
        num_steps=STEPS + 1, batch_size=8, learning_rate=0.1, ema_decay=decay, precision="float32",
        checkpoint_interval=1, max_checkpoints=STEPS, zero_stage=zero_stage,
    )  # fmt: skip
    context = StageContext(lambda event: None, None, launch_in_process, Allocation())  # type: ignore[arg-type]
    train(lambda: task, config, seed=3, output=output_of(folder), context=context)


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_averages_follow_the_recurrence(tmp_path: Path, zero_stage: int) -> None:
    with pytest.raises(ValueError, match="no data"):
        run(tmp_path, LineTask(fail_at=STEPS), zero_stage=zero_stage)
    states = {step: read_checkpoint(output_of(tmp_path), step).state for step in checkpoint_steps(output_of(tmp_path))}
    assert list(states) == list(range(1, STEPS + 1))
    name = "layers.0.weight"
    average = states[1]["average"][name].double()
    for step in range(2, STEPS + 1):
        decay = min(DECAY, step / (9 + step))  # below the configured one at first: 2/11, 3/12, ... after step 1, 2, ...
        average = decay * average + (1 - decay) * states[step]["weights"][name].double()
        torch.testing.assert_close(states[step]["average"][name].double(), average, rtol=1e-5, atol=1e-6)
    distance = (states[STEPS]["average"][name] - states[STEPS]["weights"][name]).norm()
    assert distance > 0.05 * states[STEPS]["weights"][name].norm()  # the two are not the same thing here


def test_the_average_is_what_is_kept(tmp_path: Path) -> None:
    from stages.formats.model_folders import load_model_state

    with pytest.raises(ValueError, match="no data"):
        run(tmp_path, LineTask(fail_at=STEPS), zero_stage=0, decay=0.9)
    before = read_checkpoint(output_of(tmp_path), STEPS).state
    run(tmp_path, LineTask(), zero_stage=0, decay=0.9)
    kept = load_model_state(output_of(tmp_path), "line")["layers.0.weight"]
    moved = kept - before["average"]["layers.0.weight"]
    decay = min(0.9, (1 + STEPS) / (10 + STEPS))
    latest = before["average"]["layers.0.weight"] + moved / (1 - decay)  # the last weights, if kept is the average
    step = (latest - before["weights"]["layers.0.weight"]).abs().max()
    assert 1e-4 < float(step) < 0.11  # one step of Adam at a rate of 0.1
