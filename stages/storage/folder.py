"""The folder of an artifact on any fsspec file system: what lies in it, under which names."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from cluster.owned_folders import scratch_folder
from stages.contract.errors import ArtifactError
from stages.contract.parsing import shown
from stages.storage.checksums import FileSum
from stages.storage.filesystems import is_local, open_address
from stages.storage.leases import Fence
from stages.storage.listing import find_files
from stages.storage.names import leads_out
from stages.storage.publishing import TEMPORARY

COMPLETE = "_COMPLETE"
MANIFEST = "manifest.json"
UNITS = "units"
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"
"""The folder in an artifact to which damaged files are moved."""
PLAN = "plan.json"


def unit_record(unit: str) -> str:
    """Return the name of a unit's record."""
    return f"{UNITS}/{unit}.json"


def unit_of(record: str | None) -> str | None:
    """Return the unit whose record has this name, or None."""
    is_unit = record is not None and record.startswith(f"{UNITS}/")
    return Path(record).stem if record is not None and is_unit else None


@dataclass(frozen=True)
class Folder:
    """The folder of one artifact."""

    uri: str
    stage: str
    fingerprint: str
    fence: Fence | None = field(default=None, kw_only=True)
    """What makes writes to it count; none: no other driver can know of it."""

    @cached_property
    def _fs_and_root(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return open_address(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the file system handle behind: it may hold sockets and locks."""
        return {"uri": self.uri, "stage": self.stage, "fingerprint": self.fingerprint, "fence": self.fence}

    def neighbours(self) -> list[tuple[str, str]]:
        """Return address and name of the other folders beside this one."""
        fs, root = self._fs_and_root
        (above, _, own), folder = self.uri.rstrip("/").rpartition("/"), root.rstrip("/").rpartition("/")[0]
        try:
            names = {str(path).rstrip("/").rpartition("/")[2] for path in fs.ls(folder, detail=False)}
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [(f"{above}/{name}", name) for name in sorted(names - {own})]

    def check_lease(self, *, fresh: bool = True) -> None:
        """Return while this driver may write here; raise LeaseLost when another has taken over."""
        if self.fence is not None:
            self.fence.check(fresh=fresh)

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's own file system."""
        return is_local(self._fs_and_root[0])

    def path(self, name: str) -> str:
        """Return the full address of a file in the artifact; ArtifactError: the name leads out of it."""
        if leads_out(name):
            raise ArtifactError(
                f"{self.stage}: {self.uri}: found {shown(repr(name))} as the name of a file: expected one in this "
                "folder: delete the folder, which somebody has changed, and run again"
            )
        return f"{self._fs_and_root[1]}/{name}"

    def exists(self, name: str) -> bool:
        """Return whether the file exists."""
        return bool(self._fs_and_root[0].exists(self.path(name)))

    @property
    def is_complete(self) -> bool:
        """Whether the completion marker is there."""
        return self.exists(COMPLETE)

    def unit_names(self) -> list[str]:
        """Return the names of all finished units; no record is read."""
        return [Path(name).stem for name in self.glob(f"{UNITS}/*.json")]

    def glob(self, pattern: str) -> list[str]:
        """List the files of one folder whose names match its pattern, as sorted names relative to the artifact.

        A listing that fails is an error here; fsspec's own glob would treat it as an empty one, and work would be lost.
        Files under temporary names are left out: another stage may be writing them now.
        """
        folder, slash, names = pattern.rpartition("/")
        try:
            listed = self._fs_and_root[0].ls(self.path(folder) if slash else self._fs_and_root[1], detail=False)
        except FileNotFoundError:
            return []
        found = (str(path).rstrip("/").rpartition("/")[2] for path in listed)
        matching = (name for name in found if fnmatchcase(name, names) and not name.startswith(TEMPORARY))
        return sorted(f"{folder}{slash}{name}" for name in matching)

    def unit_versions(self) -> dict[str, str]:
        """Return the names of all finished units, each with what changes when it is made again; no record is read."""
        if self.is_local:
            names = self.glob(f"{UNITS}/*.json")
            return {Path(name).stem: version for name in names for version in _versions(self.path(name))}
        try:
            entries = self._fs_and_root[0].ls(self.path(UNITS), detail=True)
        except FileNotFoundError:
            return {}
        found = {str(entry["name"]).rpartition("/")[2]: str(entry) for entry in entries}
        return {name.removesuffix(".json"): found[name] for name in sorted(found) if name.endswith(".json")}

    def whole_version(self) -> str | None:
        """Return what changes when units of a complete artifact are made again; None: it is not complete now.

        Whoever makes them again takes the manifest away first and writes it at the end, with the same bytes perhaps.
        """
        try:
            return str(self._fs_and_root[0].info(self.path(MANIFEST))) if self.is_complete else None
        except FileNotFoundError:
            return None

    def version(self) -> str:
        """Return what changes whenever a unit is made, or made again."""
        whole = self.whole_version()
        return str(self.unit_versions()) if whole is None else whole

    def sizes(self) -> dict[str, int]:
        """List all files but records and what is being written or was set aside, with their sizes in bytes."""
        fs, root = self._fs_and_root
        if self.is_local:
            paths = (f"{folder}/{file}" for folder, _, files in os.walk(root) for file in files)
            found = (pair for path in paths if not _is_apart(path[len(root) + 1 :]) for pair in _sized(path))
        else:
            found = ((path, info["size"]) for path, info in find_files(fs, root).items())
        sizes = {path[len(root) + 1 :]: int(size) for path, size in found}
        return {name: sizes[name] for name in sorted(sizes) if not _is_apart(name)}

    def sweep(self) -> None:
        """Delete what a killed writer left under temporary names; no other process may be writing."""
        self.check_lease()
        if self.is_local:
            for leftover in Path(self._fs_and_root[1]).rglob(f"{TEMPORARY}*"):
                leftover.unlink(missing_ok=True)

    def checksum(self, name: str) -> FileSum:
        """Read a file in the store to its end, and return its checksum."""
        if self.is_local:
            return FileSum.of(Path(self.path(name)))
        with scratch_folder("reading") as folder:
            self._fs_and_root[0].get_file(self.path(name), f"{folder}/file")
            return FileSum.of(folder / "file")

    def difference(self, name: str, expected: FileSum) -> str | None:
        """Read a file in the store to its end, and return how it differs from what was written; None: it does not."""
        if self.is_local:
            return expected.difference(Path(self.path(name)), may_sample=False)
        fs, path = self._fs_and_root[0], self.path(name)
        try:
            size = int(fs.info(path)["size"])
        except FileNotFoundError:
            return "no file"
        return expected.difference_of_parts(size, lambda start, end: fs.cat_file(path, start=start, end=end))


def _sized(path: str) -> Iterator[tuple[str, int]]:
    """Yield a path with the size of its file, unless that was deleted since it was listed."""
    with contextlib.suppress(FileNotFoundError):
        yield path, os.stat(path).st_size


def _versions(path: str) -> Iterator[str]:
    """Yield what tells a file from one that replaces it, unless it was deleted since it was listed."""
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(path)
        yield f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _is_apart(name: str) -> bool:
    """Return whether a file is a record, which has its own checksum, or no part of the artifact."""
    folder, _, file = name.rpartition("/")
    top = folder.partition("/")[0]
    return top in (UNITS, DAMAGED) or name in (MANIFEST, PLAN, COMPLETE) or file.startswith(TEMPORARY)
