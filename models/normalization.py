"""Standardisation of embeddings by the statistics of the training set, which are saved with the weights."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.buffers import ExactBuffers

_ROWS_AT_ONCE = 65_536


class Normalization(ExactBuffers):
    """Mean and standard deviation of embeddings in each dimension."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, *, floor: float = 0.0) -> None:
        """Leave embeddings as they are; later no std falls below ``floor`` times the root mean square of all."""
        super().__init__()
        self._floor = floor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    @torch.no_grad()
    def set_statistics(self, mean: Float[Tensor, " embed"], std: Float[Tensor, " embed"]) -> None:
        """Take these statistics; a std that is still 0 (all rows equal) becomes 1."""
        std = std.clamp_min(self._floor * float(std.square().mean().sqrt()))
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def measure(self, embeddings: Float[Tensor, "rows embed"]) -> None:
        """Take the statistics of these embeddings, computed in float64."""
        if not len(embeddings):
            raise ValueError("training embeddings: found none: expected at least one, whose mean is taken: give some")
        parts = torch.split(embeddings, _ROWS_AT_ONCE)  # float64 of all rows might not fit
        mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(embeddings)
        variance = torch.stack([(part.double() - mean).square().sum(0) for part in parts]).sum(0) / len(embeddings)
        self.set_statistics(mean, variance.sqrt())

    def normalize(self, embeddings: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
        """Return (z - mean) / std, computed in single precision."""
        return (embeddings.float() - self.mean) / self.std
