"""Units that earlier artifacts of the same recipe have made of the same shards: taken over instead of made again."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cluster.item_progress import item_is_given_again
from stages.contract.documents import UnitRecord
from stages.contract.errors import ArtifactError
from stages.formats.shards import ShardRecord, shard_content
from stages.storage.artifact import Artifact, Output, unit_record
from stages.storage.takeover import take_unit
from stages.streaming.staleness import without_stale

Record = TypeVar("Record", bound=UnitRecord)
Result = TypeVar("Result")
MadeUnits = Mapping[str, tuple[Artifact, str]]
"""Where the unit lies that was made from a shard of this content."""
TakePart = Callable[[Artifact, str, Artifact, Output, str], Record | None]
"""Takes what belongs to a shard's images of another artifact's unit; None: it cannot be found there.

It is called with that artifact and its unit, the shards, the output, and the name of the shard and of the new unit.
"""
ContentOf = Callable[[Artifact, str], str | None]
"""Returns what identifies all that a shard's unit is made from; None: that is not known."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reused(Generic[Result]):
    """What a worker returns of a unit that it found, here or in another artifact, and so did not make."""

    result: Result


def made_units(record: type[UnitRecord], earlier: Iterable[Artifact]) -> MadeUnits:
    """Return the units of artifacts by what they were made from."""
    found: dict[str, tuple[Artifact, str]] = {}
    for artifact in earlier:
        try:
            records = record.done(artifact)
        except ArtifactError as error:  # damaged, or of another version: it is made anew
            _log.warning("%s: nothing is taken from it", str(error).partition(": expected")[0])
            continue
        found |= {one.made_from: (artifact, unit) for unit, one in records.items() if one.made_from}
    return found


def recorded_unit(kind: type[Record], output: Output, unit: str) -> Record | None:
    """Return the record of a unit that is done; None: it is not, or its record is damaged."""
    file = unit_record(unit)
    if not output.exists(file):
        return None
    with contextlib.suppress(ArtifactError):
        return kind.parse(output.read_record(file)[0], output, file)
    return None


def _present_unit(kind: type[Record], output: Output, unit: str, content: str | None) -> Record | None:
    """Return the record of a unit that is done and of the present content; one of other content is set aside."""
    recorded = recorded_unit(kind, output, unit)
    return None if recorded is None else without_stale({unit: recorded}, {unit: content or ""}, output).get(unit)


def make_reusing_worker(
    record: type[Record],
    make_worker: Callable[[], Callable[[Any], Record]],
    shards: Artifact,
    output: Output,
    *,
    made: MadeUnits,
    take_part: TakePart[Record] | None,
    content_of: ContentOf = shard_content,
) -> Callable[[str], Record | Reused[Record]]:
    """Return the function that takes the unit of a shard over where it is there, or else makes it.

    A unit that is there already stays, unless it was made of other content. Of a shard that is given again, a worker
    that was lost has made it, so that it does not count as reused.
    """
    work = make_worker()

    def take(name: str, content: str) -> Record | None:
        if content in made:
            artifact, unit = made[content]
            return record.parse(take_unit(artifact, unit, output, name), artifact, unit_record(unit))
        part_of = ShardRecord.parse(shards.read_json(unit_record(name)), shards, unit_record(name)).part_of
        if take_part is None or part_of not in made:
            return None
        return take_part(*made[part_of], shards, output, name)

    def work_or_take(name: str) -> Record | Reused[Record]:
        content = content_of(shards, name)
        if (kept := _present_unit(record, output, name, content)) is not None:
            return kept if item_is_given_again() else Reused(kept)
        if made and content is not None:
            try:
                taken = take(name, content)
            except ArtifactError as error:
                _log.warning("%s: shard %s is made again", str(error).partition(": expected")[0], name)
            else:
                if taken is not None:
                    return Reused(taken.model_copy(update={"made_from": content}))
        return work(name).model_copy(update={"made_from": content or ""})

    return work_or_take
