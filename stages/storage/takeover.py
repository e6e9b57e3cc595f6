"""Take a finished unit over from another artifact of the same stage: its files are compared and linked, or copied."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stages.contract.errors import ArtifactError
from stages.storage.artifact import Artifact, Output, unit_record
from stages.storage.checksums import FileSum


def take_unit(source: Artifact, unit: str, output: Output, name: str) -> Any:
    """Make the files of another artifact's unit those of the unit ``name`` here, and return what its record says.

    The record itself is the caller's to write, after the files, as for a unit that is made. Each file is read once for
    its checksum. On one file system the files are linked: whoever replaces one writes another beside it.

    Raises:
        ArtifactError: the unit is not there any more, has no checksums, or is not what was written.
    """
    return take_files(source, unit_record(unit), output, lambda file: renamed(file, unit, name))


def take_files(source: Artifact, record: str, output: Output, name_of: Callable[[str], str] = str) -> Any:
    """Make the files of another artifact's record those of a record here, and return what it says.

    Raises:
        ArtifactError: the record is not there any more, has no checksums, or a file is not what was written.
    """
    content, sums = source.read_record(record)
    if not sums:
        raise ArtifactError(f"{source.stage}: {source.path(record)}: found no checksums: make it anew")
    for file, expected in sorted(sums.items()):
        local = source.local(file, record=record)
        with output.writing(name_of(file)) as path:
            try:
                _link(local, path)
            except FileNotFoundError:  # deleted since it was compared: a training keeps its newest checkpoints alone
                raise source.damaged_file(file, record, "no file") from None
            if FileSum.of(path) != expected:
                raise source.damaged_file(file, record, "other bytes")
    return content


def renamed(file: str, unit: str, name: str) -> str:
    """Return what a file of a unit is called as one of another unit."""
    folder, slash, last = file.rpartition("/")
    return f"{folder}{slash}{last.replace(unit, name)}"


def content_of(artifact: Artifact, unit: str, file: str) -> str | None:
    """Return what identifies the content of a unit's file, by the record; None: it has no checksum."""
    sums = artifact.read_record(unit_record(unit))[1] or {}
    return str(sums[file]) if file in sums else None


def contents_of_units(artifact: Artifact) -> dict[str, str]:
    """Return what identifies the content of all files of each unit, by the records; without those that have no sums."""
    return {unit: _digest_of_files(unit, sums) for unit, sums in artifact.unit_sums().items() if sums}


def _digest_of_files(unit: str, sums: Mapping[str, FileSum]) -> str:
    found = sorted((renamed(file, unit, ""), str(one)) for file, one in sums.items())
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:32]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
