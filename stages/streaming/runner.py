"""The one runner of per-shard stages: skip finished units, map the others, record each, and report progress.

The units are known at first, or those of inputs whose stages still run. Of these one counts once its record is there;
the upstream stage has promised (``units_are_final``) not to change it then, so the result does not depend on when it is
read.
"""

import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from cluster.item_progress import item_is_given_again
from cluster.mapping import Growing, Items, MakeWorker, WorkerResources
from stages.contract.documents import Totals, UnitRecord
from stages.contract.errors import InputFault, InputLost
from stages.contract.events import Progress
from stages.contract.stage import StageContext
from stages.formats.shards import require_units, shard_content
from stages.storage.artifact import Artifact, Output
from stages.streaming.reuse import ContentOf, Reused, TakePart, made_units, make_reusing_worker, recorded_unit
from stages.streaming.staleness import contents_of, without_stale

POLL_SECONDS = 0.25
_LIST_PAUSE = 5  # the pause between two listings, in times of how long one takes: a remote store may hold many units
_LONGEST_PAUSE = 10.0  # seconds

Record = TypeVar("Record", bound=UnitRecord)
Finish = Callable[[UnitRecord, Output, str], None]
MakeUnitWorker = Callable[[], Callable[[Any], Record | Reused[Record]]]
"""Makes, in a worker process, the function that makes an item's unit, or finds it, and returns its record."""


class UnitList:
    """Items that are all known: names of units, or objects that have a ``name``."""

    note = ""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items
        self._is_written = False

    def write_plan(self, output: Output) -> int:
        """Return how many there are; the first time, write it to the plan."""
        if not self._is_written:
            output.write_plan(len(self._items))
            self._is_written = True
        return len(self._items)

    def without(self, done: Collection[str]) -> Items:
        """Return the items of all other units."""
        return [item for item in self._items if unit_name(item) not in done]


class UpstreamUnits:
    """The units of an input: all of them if it is done, else those done so far and those to come.

    With ``also``, one comes when that has a unit of its name, too, whichever of the two is done first. What another
    experiment made may be of other shards: InputFault where it is done and lacks a unit.
    """

    def __init__(
        self,
        source: Artifact,
        context: StageContext,
        poll_seconds: float = POLL_SECONDS,
        *,
        also: Artifact | None = None,
    ) -> None:
        self._source, self._also, self._context, self._poll_seconds = source, also, context, poll_seconds
        self._running = [one for one in self._inputs if context.input_state(one) != "done"]
        self._names: list[str] = [] if self._running else self._list()
        self._planned = 0
        self._written: int | None = None

    @property
    def _inputs(self) -> list[str]:
        return [self._source.stage, *([] if self._also is None else [self._also.stage])]

    def write_plan(self, output: Output) -> int:
        """Return how many there are, or will be as far as is known, and keep the number in the output's plan."""
        planned = self._expected() if self._running else len(self._names)
        if planned != self._written and (planned or not self._running):
            output.write_plan(planned)
            self._written = planned
        return planned

    def _expected(self) -> int:
        self._planned = self._planned or self._source.planned_units() or 0
        return self._planned

    @property
    def note(self) -> str:
        """What to add to the progress."""
        return f"streaming from {' and '.join(self._running)}" if self._running else ""

    def without(self, done: Collection[str]) -> Items:
        """Return the names of the units that are not done; InputLost, in the map: an upstream stage has failed."""
        if self._running:
            return Growing(self._batches(frozenset(done)))
        return [name for name in self._names if name not in done]

    def _batches(self, done: frozenset[str]) -> Iterator[Sequence[str]]:
        taken, next_poll, next_list = set(done), 0.0, 0.0
        while self._running:
            now = time.monotonic()
            if now < next_poll:
                yield ()
                continue
            next_poll = now + self._poll_seconds
            self._running = self._poll()  # before listing, so that the list is complete
            if self._running and now < next_list:
                yield ()
                continue
            began = time.monotonic()
            self._names = self._list()
            ended = time.monotonic()
            next_list = ended + min(_LIST_PAUSE * (ended - began), _LONGEST_PAUSE)
            new = [name for name in self._names if name not in taken]
            taken.update(new)
            yield new

    def _poll(self) -> list[str]:
        states = {one: self._context.input_state(one) for one in self._inputs}
        for one, state in states.items():
            if state == "failed":
                raise InputLost(
                    f"{one}: failed while its shards were streamed from it; what was made of them is kept: correct its "
                    "error and run again"
                )
        return [one for one, state in states.items() if state == "running"]

    def _list(self) -> list[str]:
        names = self._source.unit_names()
        if self._also is None:
            return names
        also = set(self._also.unit_names())
        if self._also.stage not in self._running:
            require_units(self._also.stage, also, names)
        return [name for name in names if name in also]


Units = UnitList | UpstreamUnits
"""The items of a stage, one for each unit of its output."""


def unit_name(item: Any) -> str:
    """Return the name of an item's unit."""
    return item if isinstance(item, str) else str(item.name)


def _make_recording_worker(
    make_worker: MakeUnitWorker[Record], output: Output, finish: Finish, kind: type[Record], compares_content: bool
) -> Callable[[Any], tuple[str, Record, bool]]:
    """Make a worker that records each unit as done, in its own process; it returns name, record, and if it was reused.

    A unit whose worker was lost between its record and its reply is not made again. Where the worker
    ``compares_content`` it sees to that itself: what is recorded may be of earlier content.
    """
    work = make_worker()

    def work_and_record(item: Any) -> tuple[str, Record, bool]:
        name = unit_name(item)
        if not compares_content and item_is_given_again():
            recorded = recorded_unit(kind, output, name)
            if recorded is not None:
                return name, recorded, False
        with output.collecting():
            found = work(item)
            record = found.result if isinstance(found, Reused) else found
            finish(record, output, name)
        return name, record, isinstance(found, Reused)

    return work_and_record


@dataclass(frozen=True, kw_only=True)
class UnitRunner(Generic[Record]):
    """Makes the units of an output that have no record yet."""

    output: Output
    units: Units
    kind: type[Record]
    """Of the records."""
    records: Mapping[str, Record]
    """Of the units that are done (:meth:`UnitRecord.done`)."""
    make_worker: MakeUnitWorker[Record]
    resources: WorkerResources
    finish: Finish = UnitRecord.finish
    """How a worker records a unit."""
    compares_content: bool = False
    """Whether the worker itself keeps a recorded unit of the present content: ``records`` leaves out others, too."""
    check: Callable[[str, Record], None] = lambda name, record: None
    """Called with each unit's name and record once it is done; an error that it raises ends the stage."""
    unit: str = "shards"
    """What the units are, in the progress."""
    passes_before: int = 0
    """Passes over all units that are done already and counted in the progress."""
    reused_before: int = 0
    """Units that these passes took over from elsewhere."""

    def run(self, context: StageContext) -> dict[str, Record]:
        """Run them on the context's map, report each to it, and return the records of all units by name."""
        done = dict(self.records)
        images = sum(record.counts["images"] for record in done.values())
        reused, reused_images = self.reused_before, 0

        def progress() -> Progress:
            total = self.units.write_plan(self.output)
            unit = f"passes over {self.unit}" if self.passes_before else self.unit
            earlier, items = self.passes_before * total, 0 if self.passes_before else images
            return Progress(
                earlier + len(done), earlier + total, unit, items=items, note=self.units.note,
                reused=reused, reused_items=0 if self.passes_before else reused_images,
            )  # fmt: skip

        make = functools.partial(
            _make_recording_worker, self.make_worker, self.output, self.finish, self.kind, self.compares_content
        )
        for name, record, is_reused in map_and_report(
            context, make, self.units.without(done), self.resources, progress
        ):
            done[name] = record
            images += record.counts["images"]
            reused += is_reused
            reused_images += record.counts["images"] * is_reused
            self.check(name, record)
        self.units.write_plan(self.output)
        return done


def run_on_shards(
    record: type[Record],
    make_worker: Callable[[], Callable[[Any], Record]],
    shards: Artifact,
    output: Output,
    context: StageContext,
    *,
    take_part: TakePart[Record] | None = None,
    content_of: ContentOf = shard_content,
    follows: Artifact | None = None,
) -> tuple[dict[str, Record], Totals]:
    """Make a unit of every shard as it is downloaded; return the records of all, and their sums.

    Of a shard that an earlier artifact of the same recipe has worked on, the unit is taken from there; of one that is a
    part of such a shard, ``take_part`` takes the part of the unit, where that can be done. ``follows`` is an artifact
    of which a unit is needed with every shard; InputFault: it is done, and lacks one.
    """
    made = made_units(record, context.earlier)
    sources = [shards, *([] if follows is None else [follows])]
    runner = UnitRunner(
        output=output,
        units=UpstreamUnits(shards, context, also=follows),
        kind=record,
        records=_present_records(record.done(output), sources, output, content_of, context),
        make_worker=functools.partial(
            make_reusing_worker,
            record,
            make_worker,
            shards,
            output,
            made=made,
            take_part=take_part,
            content_of=content_of,
        ),
        resources=context.resources.for_shards(),
        compares_content=True,
    )
    records = runner.run(context)
    totals = Totals.of(records.values())
    reused = sum(one.made_from in made for one in records.values())
    if reused:
        totals = replace(totals, counts={**totals.counts, "reused_shards": reused})
    if totals.images == 0:
        raise InputFault(
            f"{output.stage}: the {len(records)} shards hold no readable image (failures by cause: {totals.causes}): "
            f"look at the counts of {shards.stage}"
        )
    return records, totals


def _present_records(
    records: Mapping[str, Record],
    sources: Sequence[Artifact],
    output: Output,
    content_of: ContentOf,
    context: StageContext,
) -> Mapping[str, Record]:
    """Return the records of units that are of the present shards, and set those aside that are not.

    Whether a unit is of what is still to come, its worker sees when that is there.
    """
    found = without_stale(records, contents_of(sources[0], records, content_of), output)
    for source in sources:
        if context.input_state(source.stage) != "done":
            there = set(source.unit_names())
            found = {name: one for name, one in found.items() if name in there}
    return found


def map_and_report(
    context: StageContext,
    make_worker: MakeWorker,
    items: Items,
    resources: WorkerResources,
    progress: Callable[[], Progress],
) -> Iterator[Any]:
    """Map, and report the progress at first and whenever the caller has taken in a result."""
    context.emit(progress())
    for result in context.map_shards(make_worker, items, resources):
        yield result
        context.emit(progress())
