"""Sum up what training reports on the device, so that no step waits for the host, and measure its speed."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from stages.training.config import TrainingConfig
from stages.training.task import RankInfo


@dataclass
class _Span:
    """Consecutive steps; time that does not count moves its beginning."""

    waited: float  # the loader's total when it began
    steps: int = 0

    def __post_init__(self) -> None:
        self.begun, self.cpu = time.perf_counter(), time.process_time()

    def figures(self, batch_size: int, waited: float) -> dict[str, float]:
        """Return rate, fraction of time spent waiting for data, and this process's use of its CPU threads."""
        seconds = time.perf_counter() - self.begun
        return {
            "samples_per_second": self.steps * batch_size / seconds,
            "data_wait_fraction": (waited - self.waited) / seconds,
            "cpu_utilisation": (time.process_time() - self.cpu) / (seconds * torch.get_num_threads()),
        }


class Meter:
    """Averages and rates: over the steps since the last report, and over the whole loop.

    The whole loop is this start of training, less start-up, first step (in which kernels are chosen and compiled),
    validation and checkpoints.
    """

    def __init__(self, batch_size: int, rank_info: RankInfo) -> None:
        self._batch_size = batch_size
        self._rank_info = rank_info
        self._sums: dict[str, Tensor] = {}
        self._grad_norm: Tensor | float | None = None
        self._recent = _Span(0.0)
        self._whole: _Span | None = None

    def add(self, values: Mapping[str, Tensor], grad_norm: Tensor | float | None, waited: float) -> None:
        """Add one step's values; ``waited`` is how many seconds the loop has waited for the loader so far."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._grad_norm = grad_norm
        self._recent.steps += 1
        if self._whole is None:
            self._finish()
            self._whole = _Span(waited)
        else:
            self._whole.steps += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of the rates."""
        self._finish()
        begun, cpu = time.perf_counter(), time.process_time()
        yield
        for span in (self._recent, self._whole):
            if span is not None:
                span.begun += time.perf_counter() - begun
                span.cpu += time.process_time() - cpu

    def take(self, config: TrainingConfig, step: int, waited: float) -> dict[str, float]:
        """Return the averages over all processes and start anew; ``waited`` is the loader's total so far.

        "grad_norm" is the last step's, before clipping; "data_wait_fraction" and utilisation are this process's.
        """
        means = torch.stack(list(self._sums.values())) / (self._recent.steps * self._rank_info.world_size)
        if self._rank_info.world_size > 1:
            torch.distributed.all_reduce(means)
        values = dict(zip(self._sums, means.tolist(), strict=True))  # the host waits for the device here
        values["learning_rate"] = config.learning_rate_at(step)
        values |= self._recent.figures(self._batch_size, waited) | self._gpu()
        if self._grad_norm is not None:
            values["grad_norm"] = float(self._grad_norm)
        self._sums, self._recent = {}, _Span(waited)
        return values

    def whole(self, waited: float) -> dict[str, float]:
        """Return the rates of the whole loop, after its last :meth:`take`; nothing where there was one step only."""
        if self._whole is None or self._whole.steps == 0:
            return {}
        return self._whole.figures(self._batch_size, waited) | self._gpu()

    def _gpu(self) -> dict[str, float]:
        """Return the recent utilisation of the GPU, and its peak memory."""
        device = self._rank_info.device
        if device.type != "cuda":
            return {}
        figures = {"gpu_memory_gigabytes": torch.cuda.max_memory_allocated(device) / 1e9}
        try:
            figures["gpu_utilisation"] = torch.cuda.utilization(device) / 100
        except Exception as error:  # noqa: BLE001  not known of slices of a GPU and in bare containers: no reason to stop
            _warn_once(f"gpu_utilisation is not logged, as NVML does not report it: {error}")
        return figures

    def _finish(self) -> None:
        """Wait for the device, so that its time counts where it belongs."""
        if self._rank_info.device.type == "cuda":
            torch.cuda.synchronize(self._rank_info.device)


@cache
def _warn_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)
