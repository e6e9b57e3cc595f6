"""The whole batch of a training group, for losses that compare its samples with one another."""

from typing import Any

import torch
from torch import Tensor, distributed

from models.whole_batch import ALONE, WholeBatch
from stages.training.task import RankInfo


def whole_batch_of(rank_info: RankInfo) -> WholeBatch:
    """Return the batch of all processes of the group."""
    return ALONE if rank_info.world_size == 1 else GroupBatch(rank_info.rank)


class GroupBatch(WholeBatch):
    """The batch of several processes, of which the loop gives each an equal part, in the order of their ranks.

    Every process must call :meth:`joined` alike. With the loss of its own rows as each one's loss, the mean of the
    gradients over the processes is the gradient of the mean loss of the whole batch.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def joined(self, rows: Tensor) -> Tensor:
        """Return every process's rows, one below the other in the order of ranks, with gradients to all of them."""
        whole: Tensor = _Joined.apply(rows, self.own(len(rows)))
        return whole

    def own(self, count: int) -> slice:
        """Return which of the joined rows are those of this process, which gave ``count``."""
        return slice(self._rank * count, (self._rank + 1) * count)


class _Joined(torch.autograd.Function):
    """An all-gather whose gradient is the sum of what the losses of all processes say of a row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, own: slice) -> Tensor:
        ctx.own = own
        whole = rows.new_empty((distributed.get_world_size() * len(rows), *rows.shape[1:]))
        distributed.all_gather_into_tensor(whole, rows.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[ctx.own], None
