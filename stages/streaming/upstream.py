"""Stream the units of an input from its stage while that stage still runs.

A unit counts once its record is there; the upstream stage has promised (``units_are_final``) not to change it then, so
the result does not depend on when a unit is read.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cluster.mapping import Growing, Items
from stages.contract.errors import InputLost
from stages.contract.stage import StageContext
from stages.storage.artifact import UNITS, Artifact, Output

POLL_SECONDS = 0.25
_LIST_PAUSE = 5  # the pause between two listings, in times of how long one takes: a remote store may hold many units
_LONGEST_PAUSE = 10.0  # seconds


class UpstreamUnits:
    """The units of an input: all of them if it is done, else those done so far and those to come."""

    def __init__(self, source: Artifact, context: StageContext, poll_seconds: float = POLL_SECONDS) -> None:
        self._source, self._context, self._poll_seconds = source, context, poll_seconds
        self._is_running = context.input_state(source.stage) != "done"
        self._names: list[str] = [] if self._is_running else self._list()
        self._planned = 0
        self._written: int | None = None

    def write_plan(self, output: Output) -> int:
        """Return how many there are, or will be as far as is known, and keep the number in the output's plan."""
        planned = self._expected() if self._is_running else len(self._names)
        if planned != self._written and (planned or not self._is_running):
            output.write_plan(planned)
            self._written = planned
        return planned

    def _expected(self) -> int:
        self._planned = self._planned or self._source.planned_units() or 0
        return self._planned

    @property
    def note(self) -> str:
        """What to add to the progress."""
        return f"streaming from {self._source.stage}" if self._is_running else ""

    def without(self, done: Collection[str]) -> Items:
        """Return the names of the units that are not done, as items of a map.

        Raises:
            InputLost: while the map runs: the upstream stage has failed.
        """
        if self._is_running:
            return Growing(self._batches(frozenset(done)))
        return [name for name in self._names if name not in done]

    def _batches(self, done: frozenset[str]) -> Iterator[Sequence[str]]:
        taken, next_poll, next_list = set(done), 0.0, 0.0
        while self._is_running:
            now = time.monotonic()
            if now < next_poll:
                yield ()
                continue
            next_poll = now + self._poll_seconds
            state = self._context.input_state(self._source.stage)  # before listing, so that the list is complete
            if state == "failed":
                raise InputLost(
                    f"{self._source.stage}: failed while its shards were streamed from it; what was made of them is "
                    "kept: correct its error and run again"
                )
            self._is_running = state == "running"
            if self._is_running and now < next_list:
                yield ()
                continue
            began = time.monotonic()
            self._names = self._list()
            ended = time.monotonic()
            next_list = ended + min(_LIST_PAUSE * (ended - began), _LONGEST_PAUSE)
            new = [name for name in self._names if name not in taken]
            taken.update(new)
            yield new

    def _list(self) -> list[str]:
        return [Path(name).stem for name in self._source.glob(f"{UNITS}/*.json")]
