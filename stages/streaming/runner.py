"""The one runner of per-shard stages: skip finished units, map the others, record each, and report progress."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from cluster.mapping import Items, MakeWorker, WorkerResources
from stages.contract.events import Progress
from stages.contract.stage import StageContext
from stages.formats.documents import UnitRecord
from stages.storage.artifact import Output

Record = TypeVar("Record", bound=UnitRecord)
Finish = Callable[[UnitRecord, Output, str], None]


class Units(Protocol):
    """The items of a stage, one for each unit of its output: a :class:`UnitList` or the units of an upstream stage."""

    @property
    def note(self) -> str:
        """What to add to the progress."""
        ...

    def write_plan(self, output: Output) -> int:
        """Return how many units there are as far as is known, and keep the number in the output's plan."""
        ...

    def without(self, done: Collection[str]) -> Items:
        """Return the items of all other units."""
        ...


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


def unit_name(item: Any) -> str:
    """Return the name of an item's unit."""
    return item if isinstance(item, str) else str(item.name)


@dataclass(frozen=True)
class _RecordingWorker(Generic[Record]):
    """A worker that records each unit as done, in the worker's own process, and returns name and record."""

    work: Callable[[Any], Record]
    output: Output
    finish: Finish

    def __call__(self, item: Any) -> tuple[str, Record]:
        record, name = self.work(item), unit_name(item)
        self.finish(record, self.output, name)
        return name, record


@dataclass(frozen=True)
class _MakeRecordingWorker(Generic[Record]):
    make_worker: Callable[[], Callable[[Any], Record]]
    output: Output
    finish: Finish

    def __call__(self) -> _RecordingWorker[Record]:
        return _RecordingWorker(self.make_worker(), self.output, self.finish)


@dataclass(frozen=True, kw_only=True)
class UnitRunner(Generic[Record]):
    """Makes the units of an output that have no record yet."""

    output: Output
    units: Units
    records: Mapping[str, Record]
    """Of the units that are done (:meth:`UnitRecord.done`)."""
    make_worker: Callable[[], Callable[[Any], Record]]
    """Called in each worker process; returns the function that makes an item's unit and its record."""
    resources: WorkerResources
    finish: Finish = UnitRecord.finish
    """How a worker records a unit."""
    check: Callable[[Mapping[str, Record]], None] = lambda records: None
    """Called with all records after each unit; an error that it raises ends the stage."""
    passes_before: int = 0
    """Passes over all units that are done already and counted in the progress."""

    def run(self, context: StageContext) -> dict[str, Record]:
        """Run them on the context's map, report each to it, and return the records of all units by name."""
        done = dict(self.records)
        images = sum(record.counts["images"] for record in done.values())

        def progress() -> Progress:
            total = self.units.write_plan(self.output)
            unit = "passes over shards" if self.passes_before else "shards"
            earlier, items = self.passes_before * total, 0 if self.passes_before else images
            return Progress(earlier + len(done), earlier + total, unit, items=items, note=self.units.note)

        make = _MakeRecordingWorker(self.make_worker, self.output, self.finish)
        for name, record in map_and_report(context, make, self.units.without(done), self.resources, progress):
            done[name] = record
            images += record.counts["images"]
            self.check(done)
        self.units.write_plan(self.output)
        return done


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
