"""From which checkpoint a training goes on: all processes of its group from the same one.

What a process finds damaged depends on its machine (memory, mounts, what a listing still shows), and processes that go
on from different steps train different weights without a word.
"""

import logging
import platform
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from stages.contract.errors import ArtifactError
from stages.formats.checkpoints import (
    Checkpoint,
    RollBacksRecord,
    checkpoint_steps,
    read_checkpoint,
    set_checkpoint_aside,
)
from stages.storage.artifact import DAMAGED, Output
from stages.training.task import RankInfo

_log = logging.getLogger(__name__)

Value = TypeVar("Value")


def agreed_beginning(output: Output, rank_info: RankInfo) -> tuple[Checkpoint | None, RollBacksRecord]:
    """Return the newest checkpoint that every process reads whole, to the CPU, and the roll backs; every one calls it.

    Rank 0 looks which there are. Newer ones are set aside, with a warning: they no longer count as how far the training
    is. None: there is none, or no process reads one whole.

    Raises:
        ArtifactError: some processes read checkpoints whole, but never all of them the same one.
    """
    steps, roll_backs = _of_rank_0(rank_info, lambda: (checkpoint_steps(output), RollBacksRecord.read(output)))
    passed_over: dict[int, list[str]] = {}
    is_whole_for_some = False
    for step in reversed(steps):
        checkpoint, fault = _read(output, step, rank_info)
        faults = _of_all(rank_info, fault)
        found = [one for one in faults if one is not None]
        if not found:
            _set_aside(output, passed_over, rank_info)
            return checkpoint, roll_backs
        is_whole_for_some |= len(found) < len(faults)
        passed_over[step] = found
        del checkpoint  # before the next one is read: it may be as large as the memory allows
    if is_whole_for_some:
        raise _never_agreed(output, passed_over)
    _set_aside(output, passed_over, rank_info)
    return None, roll_backs


def _read(output: Output, step: int, rank_info: RankInfo) -> tuple[Checkpoint | None, str | None]:
    """Return the checkpoint, or what is wrong with it; no process waits for others while it handles an error."""
    try:
        return read_checkpoint(output, step), None
    except ArtifactError as error:
        here = f"rank {rank_info.rank} on {platform.node()}: " if rank_info.world_size > 1 else ""
        return None, f"{here}{error}"


def _set_aside(output: Output, passed_over: dict[int, list[str]], rank_info: RankInfo) -> None:
    if rank_info.rank:
        return
    for step, faults in passed_over.items():
        for fault in faults:
            found = fault.partition(": expected")[0]
            _log.warning("%s: it is set aside to %s/; going on from the checkpoint before it", found, DAMAGED)
        set_checkpoint_aside(output, step)


def _never_agreed(output: Output, passed_over: dict[int, list[str]]) -> ArtifactError:
    newest = passed_over[max(passed_over)][0].partition(": expected")[0]
    return ArtifactError(
        f"training: the checkpoints of steps {', '.join(map(str, sorted(passed_over)))} in {output.uri}: found none "
        f"that all processes read whole, though some of them do ({newest}): expected the same files on all machines: "
        "check memory, disk and mount of that machine, then run again; or delete the folder to start anew"
    )


def _of_rank_0(rank_info: RankInfo, make: Callable[[], Value]) -> Value:
    """Return what rank 0 makes."""
    held: list[Any] = [make() if rank_info.rank == 0 else None]
    if rank_info.world_size > 1:
        torch.distributed.broadcast_object_list(held, src=0)
    value: Value = held[0]
    return value


def _of_all(rank_info: RankInfo, own: Value) -> list[Value]:
    """Return what each process has, by rank."""
    gathered = [own] * rank_info.world_size
    if rank_info.world_size > 1:
        torch.distributed.all_gather_object(gathered, own)
    return gathered
