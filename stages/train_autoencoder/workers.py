"""Sums and joins over the training processes, for the codebook that they have in common."""

import torch
from torch import Tensor


class TrainingWorkers:
    """The process group of training; a group of one returns its own values."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of every process's values."""
        if self._world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def joined(self, rows: Tensor) -> Tensor:
        """Return every process's rows, one below the other in the order of ranks."""
        if self._world_size == 1:
            return rows
        whole = rows.new_empty((self._world_size * len(rows), *rows.shape[1:]))
        torch.distributed.all_gather_into_tensor(whole, rows)
        return whole
