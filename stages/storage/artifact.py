"""Artifacts: folders on any fsspec file system, written so that a kill at any instant loses at most one file.

Every file is written under a temporary name and then renamed; on an object store it is uploaded in one request, or in
parts that become an object together when the last one is there.
A finished unit of work (a shard, a checkpoint) leaves a record in ``units/``, written after its files.
``manifest.json`` and then the marker ``_COMPLETE`` are written last, by :mod:`stages.contract.runner`.
"""

import contextlib
import json
import logging
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import fsspec

from stages.contract.errors import ArtifactError
from stages.contract.parsing import load_json, parsing, shown
from stages.storage.cache import LocalCache
from stages.storage.filesystems import is_local, open_address
from stages.storage.patience import patiently
from stages.storage.publishing import publish

COMPLETE = "_COMPLETE"
MANIFEST = "manifest.json"
UNITS = "units"
_PLAN = "plan.json"
_TEMPORARY = ".tmp-"
_SHOWN_PATH = 400
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """Read access to one artifact folder; cheap to pickle, so that it is sent to workers as it is."""

    uri: str
    stage: str
    fingerprint: str

    @cached_property
    def _fs_and_root(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return open_address(self.uri)

    def __getstate__(self) -> dict[str, str]:
        """Leave the file system handle behind: it may hold sockets and locks."""
        return {"uri": self.uri, "stage": self.stage, "fingerprint": self.fingerprint}

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's own file system."""
        return is_local(self._fs_and_root[0])

    def path(self, name: str) -> str:
        """Return the full address of a file in the artifact."""
        return f"{self._fs_and_root[1]}/{name}"

    def exists(self, name: str) -> bool:
        """Return whether the file exists."""
        return bool(self._fs_and_root[0].exists(self.path(name)))

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
        matching = (name for name in found if fnmatchcase(name, names) and not name.startswith(_TEMPORARY))
        return sorted(f"{folder}{slash}{name}" for name in matching)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading bytes."""
        with self._expecting(name):
            return self._fs_and_root[0].open(self.path(name), "rb")  # type: ignore[no-any-return]

    def read_json(self, name: str) -> Any:
        """Read a JSON file."""
        with self._expecting(name):
            return self._parse(name, self._fs_and_root[0].cat_file(self.path(name)))

    def _parse(self, name: str, content: bytes) -> Any:
        with parsing(lambda reason: self._damaged(name, reason)):
            return load_json(content)

    def _damaged(self, name: str, reason: str) -> ArtifactError:
        where = shown(self.path(name), _SHOWN_PATH)
        return ArtifactError(
            f"{self.stage}: {where}: found damaged content ({reason}): expected JSON as it was written: restore the "
            f"file, or delete {self.uri} and run again"
        )

    def local(self, name: str) -> Path:
        """Return a local path of the file, to be opened at once; a remote one is cached first."""
        if self.is_local:
            return Path(self.path(name))
        with self._expecting(name):
            cache = LocalCache.of_this_machine()
            version = self._version(name)
            return cache.get(self._fs_and_root[0], self.path(name), root=self.uri, name=name, version=version)

    def _version(self, name: str) -> str:
        """Return what identifies this version of the file; the store is asked once, as finished files do not change."""
        if name not in self._versions:
            self._versions[name] = str(self._fs_and_root[0].checksum(self.path(name)))
        return self._versions[name]

    @cached_property
    def _versions(self) -> dict[str, str]:
        return {}

    @contextlib.contextmanager
    def _expecting(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{self.stage}: the artifact has no file {name!r} (looked in {self.uri}); "
                "delete that folder and run again"
            ) from error

    @property
    def is_complete(self) -> bool:
        """Whether the completion marker is there."""
        return self.exists(COMPLETE)

    def planned_units(self) -> int | None:
        """Return how many units the artifact will have; None where that is not known yet."""
        if not self.exists(_PLAN):
            return None
        plan = self.read_json(_PLAN)
        units = plan.get("units") if isinstance(plan, dict) else None
        if not isinstance(units, int) or units < 0:
            raise self._damaged(_PLAN, shown(repr(plan)))
        return units

    def done_units(self) -> dict[str, dict[str, Any]]:
        """Return the records of all finished units by name; a remote store is read in batches."""
        return {Path(name).stem: self._parse(name, content) for name, content in self._unit_files().items()}

    def _unit_files(self) -> dict[str, bytes]:
        fs, names = self._fs_and_root[0], self.glob(f"{UNITS}/*.json")
        if self.is_local or not names:
            return {name: fs.cat_file(self.path(name)) for name in names}
        contents = fs.cat([self.path(name) for name in names])
        return {name: contents[self.path(name)] for name in names}


class Output(Artifact):
    """Write access to the artifact that a stage is making."""

    @contextlib.contextmanager
    def writing(self, name: str, *, mode: int | None = None) -> Iterator[Path]:
        """Yield a local temporary path; on a clean exit the whole file appears under its name.

        It has these permissions, where the store has any; none: the process's usual ones, whichever library wrote it.
        """
        fs, _ = self._fs_and_root
        if self.is_local:
            target = Path(self.path(name))
            patiently(self.uri, lambda: target.parent.mkdir(parents=True, exist_ok=True))
            partial = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}-{target.name}")
            try:
                if mode is not None:
                    partial.touch(mode)
                yield partial
                publish(partial, target, is_private=mode is not None)
            finally:
                partial.unlink(missing_ok=True)
            return
        with tempfile.TemporaryDirectory(prefix="corgi-") as folder:
            partial = Path(folder) / Path(name).name
            yield partial
            fs.put_file(str(partial), self.path(name))

    def write_bytes(self, name: str, content: bytes, *, mode: int | None = None) -> None:
        """Write a file in one step, with these permissions where the store has any; none: the process's usual ones."""
        with self.writing(name, mode=mode) as partial:
            partial.write_bytes(content)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file with sorted keys, so that equal content is equal bytes."""
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
        self.write_bytes(name, text.encode())

    def sweep(self) -> None:
        """Delete what a killed writer left under temporary names; no other process may be writing."""
        if self.is_local:
            for leftover in Path(self._fs_and_root[1]).rglob(f"{_TEMPORARY}*"):
                leftover.unlink(missing_ok=True)

    def _version(self, name: str) -> str:
        """Return what identifies this version of the file; the store is asked each time, as it may be written again."""
        return str(self._fs_and_root[0].checksum(self.path(name)))

    def done_units(self) -> dict[str, dict[str, Any]]:
        """Return the records of all finished units by name; a unit whose record is damaged is to be made again."""
        found: dict[str, dict[str, Any]] = {}
        for name, content in self._unit_files().items():
            try:
                found[Path(name).stem] = self._parse(name, content)
            except ArtifactError as error:
                _log.warning("%s: the unit is made again", str(error).partition(": expected")[0])
                self.remove(name)
        return found

    def write_plan(self, units: int) -> None:
        """Write how many units there will be."""
        self.write_json(_PLAN, {"units": units})

    def finish_unit(self, unit: str, record: dict[str, Any]) -> None:
        """Record that a unit of work is done; call it after the unit's files are written."""
        self.write_json(f"{UNITS}/{unit}.json", record)

    def remove(self, name: str) -> None:
        """Delete a file or folder, if it exists."""
        fs, _ = self._fs_and_root
        if fs.exists(self.path(name)):
            fs.rm(self.path(name), recursive=True)
