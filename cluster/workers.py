"""Where the workers of a map or of a training group are, as they are reported to whoever watches."""

import ipaddress
import itertools
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

SHOWN_ITEMS = 4
"""Items of a machine's workers that are named."""
_REPORT_SECONDS = 2.0  # between two reports


class AtWork(NamedTuple):
    """A worker: its machine, its item (empty: none at hand), and how many samples of that are done."""

    machine: str
    item: str = ""
    samples: int = 0


@dataclass(frozen=True)
class MachineWorkers:
    """The workers on one machine, and what the first of them are at."""

    machine: str
    count: int
    items: tuple[str, ...] = ()
    samples: int = 0
    """Those that are done of the present items of all of them."""


WorkersByMachine = tuple[MachineWorkers, ...]
Report = Callable[[WorkersByMachine], None]


def machine_name(address: str = "") -> str:
    """Return the name of this machine, and its address in the cluster where that is none of loopback."""
    name = socket.gethostname()
    try:
        is_reached = bool(address) and not ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_reached = address != name
    return f"{name} ({address})" if is_reached else name


def by_machine(workers: Iterable[AtWork]) -> WorkersByMachine:
    """Return the machines of workers in the order of their names."""
    found: dict[str, list[AtWork]] = defaultdict(list)
    for worker in workers:
        found[worker.machine].append(worker)
    return tuple(
        MachineWorkers(machine, len(those), _items(those), sum(one.samples for one in those))
        for machine, those in sorted(found.items())
    )


def _items(workers: Iterable[AtWork]) -> tuple[str, ...]:
    shown = (f"{one.item} ({one.samples:,} done)" if one.samples else one.item for one in workers if one.item)
    return tuple(itertools.islice(shown, SHOWN_ITEMS))


class Reporter:
    """Reports where workers are when that has changed, now and then."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last: WorkersByMachine = ()
        self._next = 0.0

    def note(self, workers: Iterable[AtWork]) -> None:
        """Take in the workers that there are now."""
        now = time.monotonic()
        if now < self._next:
            return
        machines = by_machine(workers)
        if machines != self._last:
            self._report(machines)
            self._last, self._next = machines, now + _REPORT_SECONDS

    def close(self) -> None:
        """Report that there are none any more."""
        if self._last:
            self._report(())
            self._last = ()
