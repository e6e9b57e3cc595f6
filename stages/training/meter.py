"""Sum up what training reports, on the device, so that no step waits for the host."""

import contextlib
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from stages.training.config import TrainingConfig
from stages.training.schedule import learning_rate
from stages.training.task import Place


class Meter:
    """Averages over the steps since the last report, and the rate."""

    def __init__(self, batch_size: int, place: Place) -> None:
        """Start the clock."""
        self._batch_size = batch_size
        self._place = place
        self._sums: dict[str, Tensor] = {}
        self._grad_norm: Tensor | float | None = None
        self._steps = 0
        self._since = time.perf_counter()
        self._waited = 0.0

    def add(self, values: Mapping[str, Tensor], grad_norm: Tensor | float | None) -> None:
        """Add one step's values."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._grad_norm = grad_norm
        self._steps += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of the rate."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def take(self, config: TrainingConfig, step: int, waited: float) -> dict[str, float]:
        """Return the averages over all processes and start anew; ``waited`` is the loader's total so far.

        "grad_norm" is the last step's, before clipping; "data_wait_share" is this process's.
        """
        means = torch.stack(list(self._sums.values())) / (self._steps * self._place.world_size)
        if self._place.world_size > 1:
            torch.distributed.all_reduce(means)
        values = dict(zip(self._sums, means.tolist(), strict=True))  # the host waits for the device here
        now = time.perf_counter()
        seconds = now - self._since
        values["learning_rate"] = learning_rate(config, step)
        values["samples_per_second"] = self._steps * self._batch_size / seconds
        values["data_wait_share"] = (waited - self._waited) / seconds
        if self._grad_norm is not None:
            values["grad_norm"] = float(self._grad_norm)
        self._sums, self._steps, self._since, self._waited = {}, 0, now, waited
        return values
