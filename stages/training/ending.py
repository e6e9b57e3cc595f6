"""The request to end early, on which all processes of a group act after the same step."""

from typing import Any

import torch
from torch import Tensor

from cluster.rank_link import end_is_requested, note_step
from stages.training.engine import LONGEST_WAIT
from stages.training.task import RankInfo

_SLOW_SECONDS = 0.5  # steps so long wait for the agreement, which takes a millisecond


class EndVote:
    """Whether one process of the group was asked to end; each of them calls :meth:`poll` once before every step.

    The agreement runs beside the step, over gloo, so that no GPU waits for it, and comes in with the next call; where
    steps are slow, with the same one.
    """

    def __init__(self, rank_info: RankInfo) -> None:
        self._group: Any = (
            torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT) if rank_info.world_size > 1 else None
        )
        self._pending: tuple[Any, Tensor] | None = None
        self._is_slow = False

    def poll(self, step_seconds: float) -> bool:
        """Return whether to end now; ``step_seconds``: how long the step before took."""
        note_step()
        if self._group is None:
            return end_is_requested()
        if self._outcome():
            return True
        values = torch.tensor([float(end_is_requested()), step_seconds])
        work = torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = work, values
        return self._is_slow and self._outcome()

    def _outcome(self) -> bool:
        if self._pending is None:
            return False
        (work, values), self._pending = self._pending, None
        work.wait()
        self._is_slow = bool(values[1] > _SLOW_SECONDS)
        return bool(values[0])
