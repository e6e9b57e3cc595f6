"""Units whose source was made again with other content: they are no units of what is there now.

A shard that was damaged or deleted is made again from its source, which may have changed meanwhile: an address gives
another image, or none. What was made of the earlier shard would be joined to the images of the present one.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from stages.contract.documents import UnitRecord
from stages.contract.errors import ArtifactError
from stages.formats.shards import shard_content
from stages.storage.artifact import Artifact, Output, unit_record

Record = TypeVar("Record", bound=UnitRecord)
Contents = Mapping[str, str]
"""What identifies the present content that each unit is made from, where that is known."""
_READS_AT_ONCE = 16
_log = logging.getLogger(__name__)


def contents_of(
    shards: Artifact, names: Iterable[str], content_of: Callable[[Artifact, str], str | None] = shard_content
) -> Contents:
    """Return what identifies the content of each of these shards, without those that are not there."""

    def find(name: str) -> str | None:
        try:
            return content_of(shards, name)
        except ArtifactError:  # it is to be made again, or was set aside since it was listed
            return None

    names = list(names)
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        return {name: found for name, found in zip(names, pool.map(find, names), strict=True) if found is not None}


def stale_units(made_from: Mapping[str, str], contents: Contents) -> list[str]:
    """Return the units that were made of other content than there is now; what is not known counts as the same."""
    return [unit for unit, content in made_from.items() if content and contents.get(unit, content) != content]


def set_stale_aside(output: Output, units: Iterable[str]) -> None:
    """Move the files of stale units to the artifact's folder of damaged ones; they are to be made again."""
    for unit in units:
        _log.warning(
            "%s: unit %s was made of a shard that has been made again with other content: it is made again, too",
            output.stage, unit,
        )  # fmt: skip
        files = output.read_record(unit_record(unit))[1] or {}
        output.set_aside([unit_record(unit), *files])


def without_stale(records: Mapping[str, Record], contents: Contents, output: Output) -> dict[str, Record]:
    """Set stale units aside, and return the records of all others."""
    stale = stale_units({unit: record.made_from for unit, record in records.items()}, contents)
    set_stale_aside(output, stale)
    return {name: record for name, record in records.items() if name not in stale}
