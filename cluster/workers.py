"""Where the workers of a map or of a training group are, as they are reported to whoever watches."""

import ipaddress
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SHOWN_ITEMS = 4
"""Items of a machine's workers that are named."""
_REPORT_SECONDS = 2.0  # between two reports


@dataclass(frozen=True)
class MachineWorkers:
    """The workers on one machine, and what the first of them are at."""

    machine: str
    count: int
    items: tuple[str, ...] = ()


Machines = tuple[MachineWorkers, ...]
Report = Callable[[Machines], None]


def machine_name(address: str = "") -> str:
    """Return the name of this machine, and its address in the cluster where that is none of loopback."""
    name = socket.gethostname()
    try:
        is_reached = bool(address) and not ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_reached = address != name
    return f"{name} ({address})" if is_reached else name


def by_machine(workers: Iterable[tuple[str, str]]) -> Machines:
    """Return the machines of workers, given by machine and item (empty: none at hand), in the order of their names."""
    found: dict[str, list[str]] = defaultdict(list)
    for machine, item in workers:
        found[machine].append(item)
    return tuple(
        MachineWorkers(machine, len(items), tuple(filter(None, items))[:SHOWN_ITEMS])
        for machine, items in sorted(found.items())
    )


class Reporter:
    """Reports where workers are when that has changed, now and then."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last: Machines = ()
        self._next = 0.0

    def note(self, workers: Iterable[tuple[str, str]]) -> None:
        """Take in the workers that there are now, by machine and item."""
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
