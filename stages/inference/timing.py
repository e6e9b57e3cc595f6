"""How fast a decoder samples: images over the seconds of its sampling alone."""

import contextlib
import time
from collections.abc import Iterator

import torch


class SamplingClock:
    """Adds up images and seconds; the device has finished when a span ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.images = 0
        self.seconds = 0.0

    @contextlib.contextmanager
    def timing(self, images: int) -> Iterator[None]:
        """Count the time of the block as that of so many images."""
        self._finish()
        begun = time.perf_counter()
        yield
        self._finish()
        self.seconds += time.perf_counter() - begun
        self.images += images

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
