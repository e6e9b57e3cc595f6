"""Noise that belongs to a sample, not to a batch: the same seed gives the same numbers in any batch and order.

The numbers are sampled on the CPU, so that they do not depend on the device either. They are written straight into
their batch, about 5 microseconds for each seed and call, because training samples noise before every step.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class SeededNoise:
    """A stream of standard normal noise for each seed; each call of :meth:`draw` continues where the last ended."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def draw(
        self, shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch ..."]:
        """Return standard normal noise, one sample of the shape for each seed, in the seeds' order."""
        noise = torch.empty((len(self._generators), *shape), dtype=dtype)
        for sample, generator in zip(noise.unbind(), self._generators, strict=True):
            sample.normal_(generator=generator)
        return noise.to(device)

    def uniform(
        self, shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch ..."]:
        """Return numbers uniform in [0, 1) instead, from the same streams."""
        numbers = torch.empty((len(self._generators), *shape), dtype=dtype)
        for sample, generator in zip(numbers.unbind(), self._generators, strict=True):
            sample.uniform_(generator=generator)
        return numbers.to(device)


def seeded_noise(
    seeds: Sequence[int],
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "batch ..."]:
    """Return one sample of standard normal noise for each seed; ``shape`` is that of one sample."""
    return SeededNoise(seeds).draw(shape, device, dtype)
