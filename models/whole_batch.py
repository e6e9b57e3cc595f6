"""Where a loss that compares the samples of a batch with one another takes all of them from.

The processes that train together hold a part of the batch each. With another set of samples to compare with, the loss
would be another one on every number of processes.
"""

from torch import Tensor


class WholeBatch:
    """The batch of a single process; :class:`stages.training.whole_batch.GroupBatch` is that of several."""

    def joined(self, rows: Tensor) -> Tensor:
        """Return every process's rows, one below the other in the order of ranks, with gradients to all of them."""
        return rows

    def own(self, count: int) -> slice:
        """Return which of the joined rows are those of this process, which gave ``count``."""
        return slice(0, count)


ALONE = WholeBatch()
