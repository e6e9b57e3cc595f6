"""What the networks of vision that folders hold have in common: how images in bytes are prepared for them."""

from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.nn import functional as F


class PreparedNetwork(torch.nn.Module):
    """A network that takes images of numbers from 0 to 255, of any size, and scales them as it was trained."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Take the network, the side of its images, and mean and standard deviation of their channels."""
        super().__init__()
        self.network, self.size = network, size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def prepared(self, pixels: Real[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """Return the images at the network's size, standardised; those of that size are only standardised."""
        scaled = F.interpolate(pixels.float(), size=(self.size, self.size), mode="bicubic", antialias=True)
        return (scaled.clamp(0, 255) / 255 - self.mean) / self.std
