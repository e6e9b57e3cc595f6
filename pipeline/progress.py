"""How far running stages are: rate and time left, for the terminal and for the run's sign of life."""

import math
import threading
import time
from dataclasses import dataclass
from typing import Final

from cluster.workers import WorkersByMachine
from stages.contract.events import Event, Metrics, Progress

USED: Final = ("data_wait_fraction", "cpu_utilisation", "gpu_utilisation", "gpu_memory_gigabytes", "samples_per_second")
"""What training reports of its use of a machine."""


@dataclass
class Pace:
    """What is known of a stage's progress; the rate counts from the first report, so that start-up does not blur it.

    A stage that goes on with units of another kind, or takes some again, begins anew. Units that are taken over from
    elsewhere are quick: the rate is of those that are made, from when the first of them began.
    """

    latest: Progress | None = None
    _first: tuple[float, int] | None = None
    """When the rate begins to count, and the units by then: those done less those reused."""

    def note(self, progress: Progress) -> None:
        """Take in a report."""
        latest = self.latest
        if latest is None or latest.unit != progress.unit or latest.done > progress.done:
            is_anew = True
        else:
            has_made = self._first is not None and _made_units(progress) > self._first[1]
            is_anew = progress.reused < latest.reused or (progress.reused > latest.reused and not has_made)
        if is_anew:
            self._first = (time.monotonic(), _made_units(progress))
        self.latest = progress

    @property
    def rate(self) -> float | None:
        """Units that are made a second; None: not known yet."""
        if self.latest is None or self._first is None:
            return None
        seconds, made = time.monotonic() - self._first[0], _made_units(self.latest) - self._first[1]
        return made / seconds if made > 0 and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None: not known yet."""
        rate = self.rate
        return None if rate is None or self.latest is None else (self.latest.total - self.latest.done) / rate


def _made_units(progress: Progress) -> int:
    return progress.done - progress.reused


class MadeItems:
    """Counts what one start of a stage makes, by its reports: neither what it finds done nor what it takes over."""

    def __init__(self) -> None:
        self.first_report: float | None = None
        """When it came, by the monotonic clock."""
        self._first: Progress | None = None
        self._latest: Progress | None = None
        self._others = 0  # items among those of the latest report that it did not make
        self._has_reused = False
        self._is_begun = False

    def begin(self) -> None:
        """Note that a process of the stage begins; where one was lost, nobody knows who made what it did not report."""
        self._is_begun = True

    def note(self, progress: Event) -> None:
        """Take in a report of how far the stage is; others say nothing of it."""
        if not isinstance(progress, Progress):
            return
        latest = self._latest
        if latest is None:
            self.first_report = time.monotonic()
            self._first, self._others = progress, progress.items
        elif self._is_begun:
            self._others += max(0, progress.items - latest.items)
        else:
            self._others += progress.reused_items - latest.reused_items
        self._has_reused = self._has_reused or progress.reused > 0
        self._is_begun = False
        self._latest = progress

    def of(self, items: int) -> int | None:
        """Return how many of all the stage's items it made; None: not known, as its reports count something else."""
        first, latest = self._first, self._latest
        if first is None or latest is None:
            return None
        if first.done == 0 and not self._has_reused and not self._others:
            return items
        made = latest.items - self._others
        return made if latest.items == items and made >= 0 else None


class RunningStages:
    """The pace of every stage that runs now; noted by one thread, read by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paces: dict[str, Pace] = {}
        self._machines: dict[str, WorkersByMachine] = {}
        self._used: dict[str, dict[str, float]] = {}
        self._begun: dict[str, float] = {}

    def started(self, stage: str) -> None:
        """Note that a stage starts."""
        with self._lock:
            self._paces[stage] = Pace()
            self._begun[stage] = time.monotonic()
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
            self._begun.pop(stage, None)

    def seconds(self) -> dict[str, float]:
        """Return for how long the stages have run."""
        now = time.monotonic()
        with self._lock:
            return {stage: now - begun for stage, begun in self._begun.items()}

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
