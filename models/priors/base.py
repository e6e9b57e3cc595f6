"""What every kind of prior offers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.buffers import ExactBuffers
from models.priors.config import PriorSampling, PriorSettings
from models.priors.text import TextFeatures

_SCALE_FLOOR = 1e-4


class Prior(nn.Module, ABC):
    """From captions to image embeddings; everything that sampling needs is in the state."""

    settings: PriorSettings

    @abstractmethod
    def measure(
        self, image_embeddings: Float[Tensor, "rows embed"], text_embeddings: Float[Tensor, "captions embed"]
    ) -> None:
        """Take what the prior needs to know of the training embeddings; call it once, before training."""

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return "loss", and maybe its parts, of each pair ([batch]); see :func:`models.priors.training_batch`."""

    @abstractmethod
    def sample(self, text: TextFeatures, seeds: Sequence[int], sampling: PriorSampling) -> Float[Tensor, "batch embed"]:
        """Return an image embedding for each caption; it depends on the caption and its seed alone.

        Raises:
            ValueError: there is not one seed per caption, or the prior cannot be sampled so.
        """


def require_seeds(text: TextFeatures, seeds: Sequence[int]) -> None:
    """Refuse a number of seeds that is not the number of captions.

    Raises:
        ValueError: the numbers differ.
    """
    if len(seeds) != len(text):
        raise ValueError(f"prior sampling: {len(text)} captions but {len(seeds)} seeds: give one seed per caption")


class EmbeddingScale(ExactBuffers):
    """Mean and deviation of embeddings in each dimension, by which they are standardised for a network."""

    mean: Tensor
    std: Tensor

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embed_dim))
        self.register_buffer("std", torch.ones(embed_dim))

    def measure(self, embeddings: Float[Tensor, "rows embed"]) -> None:
        """Take the statistics of these embeddings; no deviation falls below 1e-4 of their root mean square."""
        exact = embeddings.double()
        variance = exact.var(0, correction=0)
        self.mean.copy_(exact.mean(0))
        floor = _SCALE_FLOOR * float(variance.mean().sqrt()) or 1.0  # all rows equal: any scale does
        self.std.copy_(variance.sqrt().clamp_min(floor))
