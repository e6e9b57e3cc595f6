"""What a side does: it reads its case, does each work once, then does and times the works that it is asked for."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Self

import torch

Work = Callable[[], "Timing"]


@dataclass(frozen=True, kw_only=True)
class SideCase:
    """What both sides are given; a benchmark adds its own fields."""

    threads: int
    device: str

    def to_json(self) -> str:
        """Return the case as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_command_line(cls) -> Self:
        """Read the case that this process was started with, and set up torch for it."""
        case = cls(**json.loads(sys.argv[1]))
        torch.set_num_threads(case.threads)
        torch.manual_seed(0)
        return case


@dataclass(frozen=True)
class Timing:
    """How long a work took, and what share of it a training loop waited for data."""

    seconds: float
    cpu_seconds: float
    data_wait_fraction: float = 0.0


class Stopwatch:
    """Clock and CPU time since it was made, with the device's work done."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._settle()
        self._began, self._used = time.perf_counter(), time.process_time()

    def read(self) -> Timing:
        """Return the time so far."""
        self._settle()
        return Timing(time.perf_counter() - self._began, time.process_time() - self._used)

    def _settle(self) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize()


def timed(device: str, work: Callable[[], None]) -> Work:
    """Return the work with the time that it takes."""

    def run() -> Timing:
        stopwatch = Stopwatch(device)
        work()
        return stopwatch.read()

    return run


def serve(works: Mapping[str, Work], constants: Mapping[str, float] | None = None) -> None:
    """Do each work once, uncounted; print the constants; then reply to every line with the timing of its work."""
    for work in works.values():
        work()
    _reply(dict(constants or {}))
    for line in sys.stdin:
        _reply(asdict(works[line.strip()]()))


def _reply(found: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
