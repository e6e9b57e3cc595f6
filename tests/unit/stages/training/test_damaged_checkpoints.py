"""Checkpoints that rot: training goes on from one that is whole, and what it writes from then on is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.training import TrainGroup, launch_in_process
from stages.contract.errors import Diverged
from stages.contract.events import Event
from stages.contract.stage import Allocation, StageContext
from stages.formats.checkpoints import (
    Checkpoint,
    RollBacksRecord,
    checkpoint_steps,
    read_checkpoint,
    write_checkpoint,
)
from stages.training.launch import train
from stages.training.task import Batch, BatchPart
from tests.unit.stages.training.line import LineTask
from tests.unit.stages.training.line_training import assert_same, config, losses, output_of, run, weights


def flip(folder: Path, *steps: int) -> None:
    """Change the last byte of each of these checkpoints' weights, so that no size shows it."""
    for step in steps:
        path = folder / f"checkpoints/{step:08d}/weights.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)


def cut_at(folder: Path, fail_at: int, **settings: Any) -> list[int]:
    """Train until the samples of a step fail; return how far the next start would begin, before and afterwards."""
    reached: list[int] = []

    def launch(
        function: Any, payload: Any, group: TrainGroup, emit: Callable[[Any], None], progress: Callable[[], int]
    ) -> Any:
        reached.append(progress())
        try:
            return launch_in_process(function, payload, group, emit)
        finally:
            reached.append(progress())

    def emit(event: Event) -> None:
        pass

    context = StageContext(emit, None, launch, Allocation())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"no data for step {fail_at}"):
        train(lambda: LineTask(fail_at=fail_at), config(**settings), seed=3, output=output_of(folder), context=context)
    return reached


@pytest.mark.parametrize("keep", [1, 2])
def test_what_is_written_after_all_checkpoints_were_damaged_is_kept(tmp_path: Path, keep: int) -> None:
    settings = {"max_checkpoints": keep, "checkpoint_interval": 2, "async_checkpoints": False, "prefetch_batches": 1}
    _, whole = run(tmp_path / "whole", config(**settings))
    output = output_of(tmp_path / "cut")
    assert cut_at(tmp_path / "cut", 11, **settings)[-1] == 10
    flip(tmp_path / "cut", *checkpoint_steps(output))
    assert cut_at(tmp_path / "cut", 3, **settings)[-1] == 2
    assert cut_at(tmp_path / "cut", 5, **settings) == [2, 4]
    assert checkpoint_steps(output) == [2, 4][-keep:]
    assert list((tmp_path / "cut/damaged").rglob("weights.safetensors"))  # for whoever looks for the cause
    _, rest = run(tmp_path / "cut", config(**settings))
    assert losses(rest) == {step: losses(whole)[step] for step in range(5, 13)}
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert not list((tmp_path / "cut/damaged").rglob("*.safetensors"))  # of gigabytes, for nobody, once all is trained


def test_a_checkpoint_replaces_those_of_later_steps(tmp_path: Path) -> None:
    output = output_of(tmp_path)
    for step in (1000, 2000, 3000):
        write_checkpoint(output, Checkpoint(step, {}), keep=3)
    for step, kept in ((1500, [1000, 1500]), (1700, [1500, 1700]), (500, [500]), (500, [500])):
        write_checkpoint(output, Checkpoint(step, {}, skipped=step), keep=2)
        assert checkpoint_steps(output) == kept
        assert read_checkpoint(output, kept[-1]).skipped == step
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [f"{one:08d}" for one in kept]


def test_rolling_back_ends_where_it_goes_back_to_a_checkpoint_before_damaged_ones(tmp_path: Path) -> None:
    """Each roll back counts for the checkpoint that training goes back to, whichever others are listed."""

    class Damaging(LineTask):
        """Has all samples bad from those of step 5 on, and the checkpoint of step 4 rot."""

        def prepare(self, part: BatchPart) -> Batch:
            batch = dict(super().prepare(part))
            if part.data_step >= 5:
                for file in tmp_path.glob("checkpoints/*4/weights*"):
                    file.write_bytes(b"rot")
                batch["y"] = batch["y"] * float("inf")
            return batch

    settings = config(bad_steps="roll_back", checkpoint_interval=2, async_checkpoints=False, prefetch_batches=1)
    with pytest.raises(Diverged, match="after going back to step 2 3 times"):
        run(tmp_path, settings, Damaging())
    assert checkpoint_steps(output_of(tmp_path)) == [2]
    assert [to_step for to_step, *_ in RollBacksRecord.read(output_of(tmp_path)).rows] == [2, 2, 2]
