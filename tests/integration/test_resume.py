"""Training resumed in the middle of an epoch, also by another number of workers: the same samples, the same losses."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from cluster.rank_link import request_end
from stages.contract.errors import EndRequested, FailureCause
from stages.contract.events import Event, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.formats.checkpoints import checkpoint_steps, read_checkpoint
from stages.formats.model_folders import load_model_state
from stages.storage.artifact import Output
from stages.training.config import TrainingConfig
from stages.training.launch import train
from stages.training.task import Batch, BatchPart, RankInfo
from tests.integration.processes import launch_in_forks
from tests.unit.stages.training.line import LineTask

STEPS, BATCH = 11, 8
CHECKPOINT, KILLED = 4, 5  # 24 samples an epoch: the checkpoint lies in the middle of the second, and of a window

Losses = dict[int, float]
Order = dict[tuple[int, int], list[float]]


class RecordingTask(LineTask):
    """Writes down which samples it prepared for each step, and fails at the given step.

    Its model holds a statistic that differs between the processes, as rounding makes them differ on unlike machines.
    """

    def __init__(self, log: Path, fail_at: int | None) -> None:
        super().__init__(dropout=False, fail_at=fail_at)
        self.log = log

    def setup(self, rank_info: RankInfo) -> None:
        super().setup(rank_info)
        self.log = self.log.with_suffix(f".{rank_info.rank}")
        self.rank = rank_info.rank

    def build_model(self) -> nn.Module:
        model = super().build_model()
        model.get_buffer("offset").add_(self.rank)
        return model

    def prepare(self, part: BatchPart) -> Batch:
        batch = super().prepare(part)
        with self.log.open("a") as file:
            for number, sample in enumerate(batch["x"].tolist()):
                file.write(json.dumps([part.step, part.first + number, sample]) + "\n")
        return batch


def run(folder: Path, workers: int, *, fail_at: int | None = None) -> tuple[Losses, Order]:
    """Train, or go on; return the losses by step and the samples by step and position in the batch."""
    log = folder.parent / f"{folder.name}-{'cut' if fail_at else 'end'}"
    config = TrainingConfig(
        num_steps=STEPS, batch_size=BATCH, learning_rate=0.02, warmup_steps=2, schedule="cosine", ema_decay=0.9,
        precision="float32", checkpoint_interval=CHECKPOINT, log_interval=1, zero_stage=2,
    )  # fmt: skip
    events: list[Event] = []
    context = StageContext(events.append, None, launch_in_forks, Allocation(num_workers=workers))  # type: ignore[arg-type]
    output = Output(str(folder), "train_line", "f0")
    make_task = partial(RecordingTask, log, fail_at)
    if fail_at is None:
        train(make_task, config, seed=3, output=output, context=context)
    else:
        with pytest.raises(ValueError, match=f"no data for step {fail_at}"):
            train(make_task, config, seed=3, output=output, context=context)
        assert checkpoint_steps(output) == [CHECKPOINT]
    losses = {e.step: e.values["loss"] for e in events if isinstance(e, Metrics) and "loss" in e.values}
    lines = [json.loads(line) for file in log.parent.glob(f"{log.name}.*") for line in file.read_text().splitlines()]
    return losses, {(step, position): sample for step, position, sample in lines}


def weights(folder: Path) -> dict[str, list[float]]:
    state = load_model_state(Output(str(folder), "train_line", "f0"), "line")
    return {name: tensor.flatten().tolist() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, Losses, Order]]:
    """What one worker and what two workers do when nothing disturbs them."""
    folders = {workers: tmp_path_factory.mktemp("whole") / str(workers) for workers in (1, 2)}
    return {workers: (folder, *run(folder, workers)) for workers, folder in folders.items()}


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, Order]]:
    """What one worker and what two workers leave behind when they are stopped."""
    folders = {workers: tmp_path_factory.mktemp("cut") / str(workers) for workers in (1, 2)}
    return {workers: (folder, run(folder, workers, fail_at=KILLED)[1]) for workers, folder in folders.items()}


def test_two_workers_see_the_samples_of_one(whole: dict[int, tuple[Path, Losses, Order]]) -> None:
    (_, alone, order), (_, together, same_order) = whole[1], whole[2]
    assert len(order) == STEPS * BATCH
    assert same_order == order
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2), (1, 1)])
def test_training_goes_on_as_if_undisturbed(
    tmp_path: Path,
    whole: dict[int, tuple[Path, Losses, Order]],
    cut: dict[int, tuple[Path, Order]],
    before: int,
    after: int,
) -> None:
    folder = tmp_path / "resumed"
    left, seen_before = cut[before]
    shutil.copytree(left, folder)
    losses, seen = run(folder, after)
    undisturbed, expected, order = whole[after]
    first = {where: sample for where, sample in seen_before.items() if where[0] < CHECKPOINT}
    # Step 0 is for validation; one batch before the checkpoint is taken again, to make the optimiser's state.
    assert {step for step, _ in seen} == {0, CHECKPOINT - 1, *range(CHECKPOINT, STEPS)}
    assert first | seen == order
    assert sorted(losses) == list(range(CHECKPOINT + 1, STEPS + 1))
    if before == after:
        assert losses == {step: expected[step] for step in losses}  # bit by bit
        assert weights(folder) == weights(undisturbed)
    else:
        assert losses == pytest.approx({step: expected[step] for step in losses}, rel=1e-5)
        for name, values in weights(undisturbed).items():
            assert weights(folder)[name] == pytest.approx(values, rel=1e-4, abs=1e-5)


class EndingTask(RecordingTask):
    """Asks its own process, which is rank 0, to end when it has validated for the first time."""

    def validate(self, model: nn.Module, step: int) -> Sequence[Event]:
        request_end()
        return super().validate(model, step)


def test_two_workers_end_after_the_same_step(tmp_path: Path, whole: dict[int, tuple[Path, Losses, Order]]) -> None:
    config = TrainingConfig(
        num_steps=STEPS, batch_size=BATCH, learning_rate=0.02, warmup_steps=2, schedule="cosine", ema_decay=0.9,
        precision="float32", checkpoint_interval=STEPS, validation_interval=2, log_interval=1, zero_stage=2,
    )  # fmt: skip
    context = StageContext(lambda event: None, None, launch_in_forks, Allocation(num_workers=2))  # type: ignore[arg-type]
    output = Output(str(tmp_path / "ended"), "train_line", "f0")
    with pytest.raises(EndRequested, match="of which a checkpoint is kept"):
        train(partial(EndingTask, tmp_path / "log", None), config, seed=3, output=output, context=context)
    (reached,) = checkpoint_steps(output)
    assert reached in {2, 3}  # slow steps end sooner
    losses, _ = run(tmp_path / "ended", 2)
    assert sorted(losses) == list(range(reached + 1, STEPS + 1))
    assert weights(tmp_path / "ended") == weights(whole[2][0])


class LeavingOutTask(RecordingTask):
    """Leaves out a sample of its own at every step, and one that all processes meet."""

    def prepare(self, part: BatchPart) -> Batch:
        for name in (f"{self.rank}/{part.step}", f"all/{part.step}"):
            self.left_out[name] = FailureCause.CORRUPT_IMAGE
        return super().prepare(part)


def test_what_any_worker_leaves_out_is_counted_once_also_over_a_restart(tmp_path: Path) -> None:
    config = TrainingConfig(num_steps=4, batch_size=BATCH, precision="float32", checkpoint_interval=2)
    context = StageContext(lambda event: None, None, launch_in_forks, Allocation(num_workers=2))  # type: ignore[arg-type]
    output = Output(str(tmp_path / "out"), "train_line", "f0")
    with pytest.raises(ValueError, match="no data for step 3"):
        train(partial(LeavingOutTask, tmp_path / "cut", 3), config, seed=3, output=output, context=context)
    assert {"0/1", "1/1", "all/1"} <= set(read_checkpoint(output, 2).left_out)
    summary = train(partial(LeavingOutTask, tmp_path / "end", None), config, seed=3, output=output, context=context)
    assert summary.counts == {"failed_corrupt_image": 12}  # of each of four steps: two ranks' own and the common one
