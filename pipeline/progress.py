"""How far running stages are: rate and time left, for the terminal and for the run's sign of life."""

import math
import threading
import time
from dataclasses import dataclass
from typing import Final

from cluster.workers import WorkersByMachine
from stages.contract.events import Metrics, Progress

USED: Final = ("data_wait_fraction", "cpu_utilisation", "gpu_utilisation", "gpu_memory_gigabytes", "samples_per_second")
"""What training reports of its use of a machine."""


@dataclass
class Pace:
    """What is known of a stage's progress; the rate counts from the first report, so that start-up does not blur it.

    A stage that goes on with units of another kind, or takes some again, begins anew.
    """

    latest: Progress | None = None
    _first: tuple[float, int] | None = None

    def note(self, progress: Progress) -> None:
        """Take in a report."""
        latest = self.latest
        if latest is None or latest.unit != progress.unit or latest.done > progress.done:
            self._first = (time.monotonic(), progress.done)
        self.latest = progress

    @property
    def rate(self) -> float | None:
        """Units a second; None: not known yet."""
        if self.latest is None or self._first is None:
            return None
        seconds, done = time.monotonic() - self._first[0], self.latest.done - self._first[1]
        return done / seconds if done > 0 and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None: not known yet."""
        rate = self.rate
        return None if rate is None or self.latest is None else (self.latest.total - self.latest.done) / rate


class RunningStages:
    """The pace of every stage that runs now; noted by one thread, read by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paces: dict[str, Pace] = {}
        self._machines: dict[str, WorkersByMachine] = {}
        self._used: dict[str, dict[str, float]] = {}

    def started(self, stage: str) -> None:
        """Note that a stage starts."""
        with self._lock:
            self._paces[stage] = Pace()
            self._used.pop(stage, None)  # of a start before this one

    def note(self, stage: str, progress: Progress) -> None:
        """Take in a report of a stage."""
        with self._lock:
            self._paces.setdefault(stage, Pace()).note(progress)

    def measure(self, stage: str, metrics: Metrics) -> None:
        """Take in what a stage reports of its use of the machine, in whichever phase of its training."""
        named = {name.rpartition("/")[2]: value for name, value in metrics.values.items()}
        with self._lock:
            found: dict[str, float] = {
                name: named[name] for name in USED if name in named and math.isfinite(named[name])
            }
            self._used.setdefault(stage, {}).update(found)

    def locate(self, stage: str, machines: WorkersByMachine) -> None:
        """Note on which machines a stage computes."""
        with self._lock:
            self._machines[stage] = machines

    def ended(self, stage: str) -> None:
        """Note that a stage ended."""
        with self._lock:
            self._paces.pop(stage, None)
            self._machines.pop(stage, None)
            self._used.pop(stage, None)

    def machines(self) -> dict[str, WorkersByMachine]:
        """Return on which machines the stages compute, of those that have reported it."""
        with self._lock:
            return dict(self._machines)

    def used(self) -> dict[str, dict[str, float]]:
        """Return what the stages reported last of their use of the machine."""
        with self._lock:
            return {stage: dict(found) for stage, found in self._used.items()}

    def snapshot(self) -> dict[str, tuple[Progress, float | None, float | None]]:
        """Return progress, rate and seconds left of those that have reported."""
        with self._lock:
            known = ((name, pace) for name, pace in self._paces.items())
            return {name: (pace.latest, pace.rate, pace.seconds_left) for name, pace in known if pace.latest}
