"""What a running stage tells the world: progress, metrics, images. Plain data, sent through ``StageContext.emit``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cluster.workers import WorkersByMachine
from stages.contract.measures import Measure, Protocol

MOST_ROWS: Final = 1000
"""Of one :class:`LoggedSteps`."""


@dataclass(frozen=True)
class Progress:
    """How far a stage is: ``done`` of ``total`` units (shards, steps, images), and items so far for a rate.

    Of these, ``reused`` units with ``reused_items`` are what this process of the stage took over from elsewhere instead
    of making it.
    """

    done: int
    total: int
    unit: str
    items: int = 0
    note: str = ""
    reused: int = 0
    reused_items: int = 0


@dataclass(frozen=True)
class Metrics:
    """Named numbers at a training step (or at step 0 for a stage without steps).

    Those of a validation may have measures by the same names, and the protocols of these by digest. ``time``: in
    milliseconds since 1970, 0: now.
    """

    values: dict[str, float]
    step: int = 0
    measures: Mapping[str, Measure] = field(default_factory=dict)
    protocols: Mapping[str, Protocol] = field(default_factory=dict)
    time: int = 0

    def without_measures(self) -> "Metrics":
        """Return the numbers alone, as they are kept with checkpoints."""
        return Metrics(self.values, self.step, time=self.time)


@dataclass(frozen=True)
class RolledBack:
    """A training found bad steps after ``from_step``, and went back to its checkpoint of ``to_step``.

    It takes the steps after that one again, with other samples: what it had reported of them until ``time``, in
    milliseconds since 1970, does not count any more.
    """

    to_step: int
    from_step: int
    time: int

    def discards(self, step: int, time: int) -> bool:
        """Whether what was reported of a step at a time does not count any more."""
        return step > self.to_step and time <= self.time


@dataclass(frozen=True)
class LoggedSteps:
    """What a training had logged before, at most :data:`MOST_ROWS` of its :class:`Metrics`, and where it rolled back.

    Most of it was reported already, by a process that may have been killed; whoever records it leaves that out. The
    rows hold nothing that a roll back has discarded.
    """

    rows: tuple[Metrics, ...] = field(default=(), repr=False)
    roll_backs: tuple[RolledBack, ...] = ()

    def split(self) -> "Iterator[LoggedSteps]":
        """Yield it in parts of :data:`MOST_ROWS` rows at most, the first with all roll backs; nothing of nothing."""
        if self.roll_backs and not self.rows:
            yield self
        for first in range(0, len(self.rows), MOST_ROWS):
            yield LoggedSteps(self.rows[first : first + MOST_ROWS], () if first else self.roll_backs)


@dataclass(frozen=True)
class LoggedImage:
    """A PNG to show on the dashboard; ``name`` has no folder and no suffix. ``time`` as of :class:`Metrics`."""

    name: str
    png: bytes = field(repr=False)
    step: int = 0
    time: int = 0


@dataclass(frozen=True)
class Log:
    """One line for the stage's log; ``level`` as in :mod:`logging` ('INFO', 'WARNING', ...).

    ``time``: seconds since 1970, 0: now; ``node`` and ``shard``: where it comes from, where that is known;
    ``attachment``: a text that is kept in a file of its own, such as a stack.
    """

    message: str
    level: str = "INFO"
    time: float = 0.0
    node: str = ""
    shard: str = ""
    attachment: str = field(default="", repr=False)


@dataclass(frozen=True)
class Workers:
    """The machines on which a stage computes at the moment, with the number of its workers on each."""

    machines: WorkersByMachine


Event = Progress | Metrics | RolledBack | LoggedSteps | LoggedImage | Log | Workers
