"""Artifacts: folders on any fsspec file system, written so that a kill at any instant loses at most one file.

Every file is written under a temporary name and then renamed; an object store takes it in one request, or in parts that
become an object together. A finished unit of work (a shard, a checkpoint) leaves a record in ``units/``, written after
its files; ``manifest.json`` and then the marker ``_COMPLETE`` are written last, by :mod:`stages.contract.runner`.

The record of a unit holds the checksums of its files, the manifest those of all others, and each its own. A file is
compared with its checksum when it is first read on a machine; one that an earlier version wrote has none.
"""

import contextlib
import io
import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from cluster.owned_folders import scratch_folder
from stages.contract.errors import ArtifactError, DamagedFile
from stages.contract.parsing import load_json, parsing, shown
from stages.storage.cache import LocalCache
from stages.storage.checksums import BLOCK, FileSum, sealed, to_json, unsealed
from stages.storage.folder import COMPLETE, DAMAGED, MANIFEST, PLAN, UNITS, Folder, unit_of, unit_record
from stages.storage.patience import patiently
from stages.storage.publishing import TEMPORARY, publish
from stages.storage.verified import VerifiedFiles

__all__ = ["COMPLETE", "DAMAGED", "MANIFEST", "UNITS", "Artifact", "Output", "unit_of", "unit_record"]

_SHOWN_PATH = 400
_READ_OF_EARLIER = 1 << 20  # bytes of a file that an earlier version may have made
_collected: ContextVar[tuple[str, dict[str, FileSum]] | None] = ContextVar("collected", default=None)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact(Folder):
    """Read access to one artifact folder; cheap to pickle, so that it is sent to workers as it is."""

    def siblings(self) -> list["Artifact"]:
        """Return the other artifacts of the stage in this store, whether they are complete or not."""
        return [Artifact(uri, self.stage, name) for uri, name in self.neighbours()]

    def open(self, name: str, *, record: str | None = None) -> IO[bytes]:
        """Open a file for reading bytes; DamagedFile: it is not what was written, as the unit's record says.

        ``record`` names the record that holds its checksum, where the caller knows it; else it is looked for.
        """
        fs = self._fs_and_root[0]
        with self._expecting(name, record):
            if self.is_local:
                return fs.open(str(self.local(name, record=record)), "rb")  # type: ignore[no-any-return]
            expected = self._expected(name, record)
            if expected is None:
                return fs.open(self.path(name), "rb")  # type: ignore[no-any-return]
            if expected.size > BLOCK:
                return self.local(name, record=record).open("rb")
            return io.BytesIO(self._read_whole(name, record, expected))

    def open_part(self, name: str) -> IO[bytes]:
        """Open a file of which only a part is read, which is not compared with its checksum."""
        with self._expecting(name):
            return self._fs_and_root[0].open(self.path(name), "rb")  # type: ignore[no-any-return]

    def read_json(self, name: str) -> Any:
        """Read a JSON file; of a record, what was recorded, without the checksums."""
        return self.read_record(name)[0]

    def read_record(self, name: str) -> "tuple[Any, dict[str, FileSum] | None]":
        """Read a record: what was recorded, and the checksums of its files (None: an earlier version wrote it)."""
        holds_its_own = name in (MANIFEST, PLAN) or name.startswith(f"{UNITS}/")
        with self._expecting(name):
            expected = None if holds_its_own else self._expected(name, None)
            return self._parse(name, self._read_whole(name, None, expected))

    def _read_whole(self, name: str, record: str | None, expected: FileSum | None) -> bytes:
        content: bytes = self._fs_and_root[0].cat_file(self.path(name))
        if expected is not None and (found := expected.difference_of_bytes(content)) is not None:
            raise self.damaged_file(name, record, found)
        return content

    def _parse(self, name: str, content: bytes) -> "tuple[Any, dict[str, FileSum] | None]":
        with parsing(lambda reason: self._damaged(name, reason)):
            found = unsealed(load_json(content))
            if unit_of(name) is not None and not isinstance(found[0], dict):
                raise ValueError("the record of a unit is a mapping")
            return found

    def _damaged(self, name: str, reason: str) -> DamagedFile:
        return self.damaged_file(name, name, f"damaged content ({reason})")

    def damaged_file(self, name: str, record: str | None, found: str) -> DamagedFile:
        """Return the error of a file that is not what was written; its record says to which unit it belongs."""
        unit = unit_of(record)
        what = "the artifact" if unit is None else f"unit {shown(unit)}"
        error = DamagedFile(
            f"{self.stage}: {shown(self.path(name), _SHOWN_PATH)}: found {found}: expected what was written: "
            f"set {what} aside by `corgi verify {self.uri} --set-aside`; the next `corgi run` makes it again"
        )
        error.stage, error.fingerprint, error.name, error.unit = self.stage, self.fingerprint, name, unit
        return error

    def local(self, name: str, *, record: str | None = None, may_sample: bool = True) -> Path:
        """Return a local path of the file, to be opened at once; a remote one is cached first.

        It is compared with its checksum; ``record`` is that of :meth:`open`. Where it ``may_sample``, that is the first
        time on this machine, of huge ones some blocks; else each time, and all of it.
        """
        with self._expecting(name, record):
            if self.is_local:
                self._verify(name, record, may_sample=may_sample)
                return Path(self.path(name))
            return LocalCache.of_this_machine().get(
                self._fs_and_root[0], self.path(name), root=self.uri, name=name, version=self._version(name, record),
                check=lambda fetched: self._compare(name, record, fetched, may_sample=False), always=not may_sample,
            )  # fmt: skip

    def _verify(self, name: str, record: str | None, *, may_sample: bool) -> None:
        path = Path(self.path(name))
        if may_sample:
            VerifiedFiles.of(self.uri).once(name, path, lambda: self._compare(name, record, path, may_sample=True))
        elif not self._compare(name, record, path, may_sample=False):
            path.stat()  # FileNotFoundError

    def _compare(self, name: str, record: str | None, path: Path, *, may_sample: bool) -> bool:
        """Compare a file with its checksum, and return whether there is one."""
        expected = self._expected(name, record)
        found = None if expected is None else expected.difference(path, may_sample=may_sample)
        if found is not None:
            raise self.damaged_file(name, record, found)
        return expected is not None

    def _expected(self, name: str, record: str | None) -> FileSum | None:
        """Return a file's checksum; None: there is none."""
        if record is not None:
            return (self._sums_in(record) or {}).get(name)
        others = self._sums_in(MANIFEST)
        return None if others is None else others.get(name) or self._sums_of_all_units.get(name)

    def _sums_in(self, record: str) -> Mapping[str, FileSum] | None:
        """Return the checksums in a record, which is read once; None: it is not there, or has none."""
        if record not in self._sums and (found := self._read_sums(record)) is not None:
            self._sums[record] = found
        return self._sums.get(record)

    def _read_sums(self, record: str) -> Mapping[str, FileSum] | None:
        try:
            return self.read_record(record)[1]
        except ArtifactError as error:
            if isinstance(error.__cause__, FileNotFoundError):  # it may be written yet
                return None
            raise

    @cached_property
    def _sums(self) -> dict[str, Mapping[str, FileSum]]:
        return {}

    @cached_property
    def _sums_of_all_units(self) -> Mapping[str, FileSum]:
        return {name: found for sums in self.unit_sums().values() for name, found in (sums or {}).items()}

    def unit_sums(self) -> dict[str, dict[str, FileSum] | None]:
        """Return the checksums of the files of each unit; None: its record has none."""
        texts = self._unit_texts(self.unit_names())
        return {unit: self._parse(unit_record(unit), text)[1] for unit, text in texts.items()}

    def _version(self, name: str, record: str | None) -> str:
        """Return what identifies this version of the file; the store is asked once, as finished files do not change."""
        if name not in self._versions:
            self._versions[name] = self._ask_version(name, record)
        return self._versions[name]

    def _ask_version(self, name: str, record: str | None) -> str:
        try:
            return str(self._fs_and_root[0].checksum(self.path(name)))
        except FileNotFoundError as error:
            if self._expected(name, record) is None:
                raise
            raise self.damaged_file(name, record, "no file") from error

    @cached_property
    def _versions(self) -> dict[str, str]:
        return {}

    @contextlib.contextmanager
    def _expecting(self, name: str, record: str | None = None) -> Iterator[None]:
        """Say that a file is not there; of one that was set aside, that it is to be made again."""
        try:
            yield
        except (FileNotFoundError, IsADirectoryError) as error:
            if (name == MANIFEST and self.exists(COMPLETE)) or self.exists(f"{DAMAGED}/{name}"):
                raise self.damaged_file(name, record or name, "no file") from error
            raise ArtifactError(
                f"{self.stage}: the artifact has no file {name!r} (looked in {self.uri}); "
                "delete that folder and run again"
            ) from error

    def planned_units(self) -> int | None:
        """Return how many units the artifact will have; None where that is not known yet."""
        if not self.exists(PLAN):
            return None
        try:
            plan = self.read_json(PLAN)
        except DamagedFile as error:  # the stage writes it again
            _log.warning("%s: how many units there will be is not known", str(error).partition(": expected")[0])
            return None
        units = plan.get("units") if isinstance(plan, dict) else None
        if not isinstance(units, int) or units < 0:
            raise self._damaged(PLAN, shown(repr(plan)))
        return units

    def done_units(self) -> dict[str, dict[str, Any]]:
        """Return the records of all finished units by name; a remote store is read in batches."""
        names = self.unit_names()
        try:
            return self.read_units(names)
        except ArtifactError:
            if not (left := self.unit_names()) or set(names) <= set(left):
                raise
        return self.read_units(left)  # one was deleted meanwhile, such as a training's oldest checkpoint

    def read_units(self, units: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the records of some finished units by name."""
        return {unit: self._parse(unit_record(unit), text)[0] for unit, text in self._unit_texts(units).items()}

    def _unit_texts(self, units: Iterable[str]) -> dict[str, bytes]:
        fs, paths = self._fs_and_root[0], {self.path(unit_record(unit)): unit for unit in units}
        with self._expecting(unit_record("*")):  # one may have been deleted since they were listed, by `corgi gc`
            found = {path: fs.cat_file(path) for path in paths} if self.is_local or not paths else fs.cat(list(paths))
        return {paths[path]: text for path, text in found.items()}


class Output(Artifact):
    """Write access to the artifact that a stage is making, as long as its driver holds the lease."""

    @contextlib.contextmanager
    def writing(self, name: str, *, mode: int | None = None) -> Iterator[Path]:
        """Yield a local temporary path; on a clean exit the whole file appears under its name.

        It has these permissions, where the store has any; none: the process's usual ones, whichever library wrote it.
        The lease is checked when it is whole: who takes over sweeps temporary files away before reading anything.
        """
        fs, path = self._fs_and_root[0], self.path(name)
        if self.is_local:
            target = Path(path)
            patiently(self.uri, lambda: target.parent.mkdir(parents=True, exist_ok=True))
            partial = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{target.name}")
            try:
                if mode is not None:
                    partial.touch(mode)
                yield partial
                self._collect(name, partial)
                publish(partial, target, is_private=mode is not None, check=self.check_lease)
            finally:
                partial.unlink(missing_ok=True)
            return
        with scratch_folder("writing") as folder:
            partial = folder / Path(name).name
            yield partial
            self._collect(name, partial)
            self.check_lease(fresh=False)
            fs.put_file(str(partial), path)

    def write_bytes(self, name: str, content: bytes, *, mode: int | None = None) -> None:
        """Write a file in one step, with these permissions where the store has any; none: the process's usual ones."""
        with self.writing(name, mode=mode) as partial:
            partial.write_bytes(content)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        self.write_bytes(name, to_json(content))

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Take the checksums of the files that this thread writes meanwhile into the record of a unit, at its end."""
        token = _collected.set((self.uri, {}))
        try:
            yield
        finally:
            _collected.reset(token)

    def collect(self, name: str) -> None:
        """Take the checksum of a file that was written before, too, into the record."""
        if (collected := self._collected()) is not None:
            collected[name] = self.checksum(name)

    def _collect(self, name: str, partial: Path) -> None:
        """Take a file's checksum, while it is still in memory."""
        if (collected := self._collected()) is not None and not name.startswith(f"{UNITS}/"):
            collected[name] = FileSum.of(partial)

    def _collected(self) -> dict[str, FileSum] | None:
        uri, files = _collected.get() or ("", {})
        return files if uri == self.uri else None

    def _version(self, name: str, record: str | None) -> str:
        """Return what identifies this version of the file; the store is asked each time, as it may be written again."""
        return self._ask_version(name, record)

    def _sums_in(self, record: str) -> Mapping[str, FileSum] | None:
        """Return the checksums in a record, which is read each time, as it may be written again."""
        return self._read_sums(record)

    def done_units(self) -> dict[str, dict[str, Any]]:
        """Return the records of all finished units by name.

        A unit whose record is damaged, or of which a file is gone or has another size, is set aside, to be made again.
        """
        records: dict[str, dict[str, Any]] = {}
        files: dict[str, Mapping[str, FileSum]] = {}
        for unit, text in self._unit_texts(self.unit_names()).items():
            try:
                records[unit], found = self._parse(unit_record(unit), text)
                files[unit] = found or {}
            except ArtifactError as error:
                self._set_unit_aside(unit, str(error), {})
        for unit, fault in self._cut_units(files).items():
            self._set_unit_aside(unit, fault, files[unit])
            del records[unit]
        return records

    def _cut_units(self, files: Mapping[str, Mapping[str, FileSum]]) -> dict[str, str]:
        """Return what is wrong with units of which a file is gone or has another size; no content is read."""
        sizes = self.sizes() if any(files.values()) else {}
        cut = {}
        for unit, sums in files.items():
            for name, expected in sums.items():
                if (size := sizes.get(name)) != expected.size:
                    fault = self.damaged_file(name, unit_record(unit), "no file" if size is None else f"{size} bytes")
                    cut[unit] = str(fault)
        return cut

    def _set_unit_aside(self, unit: str, fault: str, files: Iterable[str]) -> None:
        _log.warning("%s: it is made again; what was found is in %s/", fault.partition(": expected")[0], DAMAGED)
        self.set_aside([unit_record(unit), *files])

    def set_aside(self, names: Iterable[str]) -> None:
        """Move files to the folder of damaged ones, so that the next run makes them again; the record comes first."""
        self.unseal()
        fs, _ = self._fs_and_root
        for name in names:
            if fs.exists(self.path(name)):
                target = self.path(f"{DAMAGED}/{name}")
                if self.is_local:
                    Path(target).parent.mkdir(parents=True, exist_ok=True)
                fs.mv(self.path(name), target)

    def unseal(self) -> None:
        """Let the artifact count as unfinished, so that the next run goes on with it."""
        for marker in (COMPLETE, MANIFEST):
            self.remove(marker)

    def write_plan(self, units: int) -> None:
        """Write how many units there will be."""
        self.write_json(PLAN, sealed({"units": units}, {}))

    def finish_unit(self, unit: str, record: dict[str, Any]) -> None:
        """Record that a unit of work is done; call it after the unit's files are written.

        It holds the checksums of the files that were written since :meth:`collecting` began, or else those that it had.
        """
        self.write_record(unit_record(unit), record)

    def write_record(self, name: str, record: dict[str, Any]) -> None:
        """Write a record of files, as :meth:`finish_unit` does for a unit."""
        self.put_json(name, sealed(record, self._collected() or self._sums_in(name) or {}))

    def put_json(self, name: str, content: Any) -> None:
        """Write a JSON file that makes others count; it replaces none of a later holder of the lease."""
        if self.fence is None or self.is_local:
            self.write_json(name, content)
        else:
            self.fence.put_record(self._fs_and_root[0], self.path(name), to_json(content))

    def copy(self, name: str, target: str) -> None:
        """Copy a small file within the artifact."""
        self.write_bytes(target, self._fs_and_root[0].cat_file(self.path(name)))

    def finish_artifact(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, with the checksums of all files that belong to no unit."""
        self.write_json(MANIFEST, sealed(manifest, self._sums_of_others()))

    def _sums_of_others(self) -> dict[str, FileSum]:
        """Read all files that belong to no unit: the few that describe the artifact as a whole."""
        sums = self.unit_sums()
        in_units = {name for files in sums.values() for name in files or ()}
        # The files of a unit without checksums, which an earlier version made, look like those of none.
        limit = None if all(files is not None for files in sums.values()) else _READ_OF_EARLIER
        others = {name: size for name, size in self.sizes().items() if name not in in_units}
        return {name: self.checksum(name) for name, size in others.items() if limit is None or size <= limit}

    def remove(self, name: str) -> None:
        """Delete a file or folder, if it exists."""
        self.check_lease()
        if (fs := self._fs_and_root[0]).exists(self.path(name)):
            fs.rm(self.path(name), recursive=True)
