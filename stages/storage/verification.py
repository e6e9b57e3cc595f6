"""Read all of an artifact and compare it with its checksums; set aside what is not what was written."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

from stages.contract.errors import ArtifactError, DamagedFile
from stages.storage.artifact import Artifact, Output
from stages.storage.checksums import FileSum
from stages.storage.folder import COMPLETE, MANIFEST, PLAN, UNITS, unit_record

_AT_ONCE = 64  # files that a thread compares before it takes the next ones


@dataclass
class Verified:
    """What was found of one artifact."""

    artifact: Artifact
    files: int = 0
    bytes: int = 0
    damaged: list[DamagedFile] = field(default_factory=list)
    without: int = 0
    """Files that have no checksum: an earlier version wrote them, or their stage is still at it."""


def verify(artifact: Artifact, pool: Executor) -> Verified:
    """Read the whole artifact, in the threads of the pool."""
    found = Verified(artifact)
    expected = dict(_recorded(artifact, found))
    sizes = artifact.sizes()
    found.files += len(sizes)
    found.bytes += sum(sizes.values())
    found.without += len(sizes.keys() - expected.keys())
    names = sorted(expected)
    batches = [names[at : at + _AT_ONCE] for at in range(0, len(names), _AT_ONCE)]

    def compare(batch: list[str]) -> list[DamagedFile]:
        return [error for name in batch if (error := _compare(artifact, name, *expected[name])) is not None]

    for errors in pool.map(compare, batches):
        found.damaged += errors
    found.damaged = [error for error in found.damaged if _is_there(artifact, error)]
    return found


def _is_there(artifact: Artifact, damage: DamagedFile) -> bool:
    """Return whether the unit of a damaged file is there: a training deletes old checkpoints, the record first."""
    return damage.unit is None or artifact.exists(unit_record(damage.unit))


def still_damaged(artifact: Artifact, damaged: Iterable[DamagedFile]) -> list[DamagedFile]:
    """Return what is damaged now of what was found so: a run may have made it again, and others set it aside."""
    one_of_each = {error.unit or error.name: error for error in damaged if _is_there(artifact, error)}
    return [now for error in one_of_each.values() for now in compare_again(artifact, error)]


def _recorded(artifact: Artifact, found: Verified) -> Iterator[tuple[str, tuple[str, FileSum]]]:
    """Read all records, and yield each file that one names, with that record and its checksum."""
    records = [*artifact.glob(f"{UNITS}/*.json"), *(name for name in (MANIFEST, PLAN) if artifact.exists(name))]
    if MANIFEST not in records and artifact.exists(COMPLETE):
        found.damaged.append(artifact.damaged_file(MANIFEST, None, "no file"))
    for record in records:
        found.files += 1
        try:
            _, sums = artifact.read_record(record)
        except DamagedFile as error:
            found.damaged.append(error)
            continue
        except ArtifactError:  # deleted since it was listed
            found.files -= 1
            continue
        found.without += sums is None
        yield from ((name, (record, one)) for name, one in (sums or {}).items())


def _compare(artifact: Artifact, name: str, record: str, expected: FileSum) -> DamagedFile | None:
    difference = artifact.difference(name, expected)
    return None if difference is None else artifact.damaged_file(name, record, difference)


def compare_again(artifact: Artifact, damage: DamagedFile) -> list[DamagedFile]:
    """Read a file that was found damaged once more, with the other files of its unit; return what is damaged."""
    own = PLAN if damage.name == PLAN else MANIFEST
    record = own if damage.unit is None else unit_record(damage.unit)
    try:
        sums = artifact.read_record(record)[1] or {}
    except DamagedFile as error:
        return [error]
    except ArtifactError:  # it has no record any more
        return [damage]
    names = [damage.name] if damage.unit is None else list(sums)
    found = [_compare(artifact, name, record, sums[name]) for name in names if name in sums]
    return [one for one in found if one is not None]


def set_damage_aside(output: Output, damaged: Iterable[DamagedFile], *, is_trained: bool) -> list[str]:
    """Move damaged files, and all that belongs to their units, to the artifact's folder of damaged ones.

    Returns what the next run makes again: names of units, or the files that belong to none. With one of these a unit is
    made again, too, since its worker writes what describes them all; not a trained model, which costs much more.
    """
    damaged = list(damaged)
    units = {error.unit for error in damaged if error.unit is not None}
    others = [error.name for error in damaged if error.unit is None]
    if others and not units and not is_trained:
        units |= {name.rpartition("/")[2].removesuffix(".json") for name in output.glob(f"{UNITS}/*.json")[:1]}
    names = list(others)
    for unit in sorted(units):
        names += [unit_record(unit), *_files_of(output, unit)]
    output.set_aside(names)
    return [*sorted(units), *others]


def _files_of(output: Output, unit: str) -> list[str]:
    try:
        return list(output.read_record(unit_record(unit))[1] or {})
    except ArtifactError:  # its files are written over
        return []
