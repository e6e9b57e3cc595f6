"""Take the units of an input one by one, while the stage that makes them still runs.

What is taken is the same, whenever it is taken: a unit counts once its record is there, and the followed stage has
promised (``units_are_final``) never to change it then.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cluster.mapping import Growing, Items
from stages.contract.errors import InputLost
from stages.contract.stage import StageContext
from stages.storage.artifact import UNITS, Artifact, Output

PLAN = "plan.json"
POLL_SECONDS = 0.25
_LIST_PAUSE = 5  # times as long as listing took, nobody lists again: many units of a remote store take long
_LONGEST_PAUSE = 10.0  # seconds


class UpstreamUnits:
    """The units of an input: all of them where it is done, else those that are done so far and those to come."""

    def __init__(self, source: Artifact, context: StageContext, poll_seconds: float = POLL_SECONDS) -> None:
        self._source, self._context, self._poll_seconds = source, context, poll_seconds
        self._is_running = context.input_state(source.stage) != "done"
        self._names: list[str] = [] if self._is_running else self._list()
        self._planned = 0
        self._written: int | None = None

    def write_plan(self, output: Output) -> int:
        """Return how many there are, or will be as far as is known, and keep it in the plan of what is made of them."""
        planned = self._foreseen() if self._is_running else len(self._names)
        if planned != self._written and (planned or not self._is_running):
            output.write_json(PLAN, {"units": planned})
            self._written = planned
        return planned

    def _foreseen(self) -> int:
        if not self._planned and self._source.exists(PLAN):
            self._planned = int(self._source.read_json(PLAN)["units"])
        return self._planned

    @property
    def note(self) -> str:
        """What to say of the progress."""
        return f"following {self._source.stage}" if self._is_running else ""

    def without(self, done: Collection[str]) -> Items:
        """Return the names of the units that are not among the done ones, as items of a map.

        Raises:
            InputLost: in the middle of the map: the stage that makes them has failed.
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
            state = self._context.input_state(self._source.stage)  # first: what is done by then is in the list
            if state == "failed":
                raise InputLost(
                    f"{self._source.stage}, which it follows shard by shard, has failed; what was made of its shards is"
                    " kept: mend that and run again"
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
