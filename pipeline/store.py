"""The store: artifacts/<stage>/<fingerprint>/ and runs/<run>/run.json on any fsspec file system."""

import contextlib
import hashlib
import itertools
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from pipeline.errors import UsageError
from pipeline.leases import Leases, LeaseTimes
from pipeline.record import RunRecord
from pipeline.record_cache import cached_records
from stages.contract.errors import LeaseLost, StageError
from stages.contract.parsing import load_json, parsing
from stages.contract.secrets import redact_addresses
from stages.contract.texts import one_line, show_value
from stages.storage.artifact import COMPLETE, UNITS, Artifact, Output
from stages.storage.filesystems import describe_error, is_local, is_remote, open_address, root_address
from stages.storage.leases import Fence
from stages.storage.private_folders import user_folder

_log = logging.getLogger(__name__)

PRIVATE = 0o600  # of files that name addresses: their owner alone reads them
_HEARTBEAT = "heartbeat.json"
RECORD = "run.json"
_READS_AT_ONCE = 16
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # or a file among folders, or a folder itself
LARGEST_DOCUMENT = 64 << 20  # bytes

FORMAT = 1
"""Raised whenever an older corgi could not read what this one writes."""


class _Unreadable(StageError):
    """A document of the store is no JSON within bounds."""


@dataclass(frozen=True)
class Completion:
    """How far an artifact is: complete, or so many units of the planned number (None where no plan was written)."""

    complete: bool
    units_done: int = 0
    units_planned: int | None = None

    @property
    def state(self) -> str:
        """Return 'done', 'partial' or 'new'."""
        if self.complete:
            return "done"
        return "partial" if self.units_done else "new"


class Store:
    """Names and finds artifacts and run records below one URI."""

    def __init__(self, uri: str) -> None:
        self._leases: Leases | None = None
        self._said: set[str] = set()
        try:
            self.uri = root_address(uri)
        except StageError as error:
            raise UsageError(f"store: {error}; give a folder or an fsspec URI") from None

    @cached_property
    def _fs_and_root(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            return open_address(self.uri)
        except StageError as error:
            raise UsageError(f"store: {error}") from None
        except (ImportError, ValueError) as error:
            words = (
                describe_error(error) if isinstance(error, ImportError) else f"{error}; give a folder or an fsspec URI"
            )
            raise UsageError(f"store: found {self.uri!r}: {words}") from None

    @property
    def local_root(self) -> Path | None:
        """The store's folder where it lies on this machine, else None."""
        fs, root = self._fs_and_root
        return Path(root) if is_local(fs) else None

    @property
    def local_base(self) -> Path:
        """A folder of this machine for what is no part of a remote store: the store itself where it is local."""
        if self.local_root is not None:
            return self.local_root
        try:
            return user_folder() / hashlib.sha256(redact_addresses(self.uri).encode()).hexdigest()[:8]
        except StageError as error:
            raise UsageError(f"store: {error}") from None

    @property
    def digests(self) -> Path:
        """The file of this machine in which digests of files are remembered."""
        return self.local_base / "digests.db"

    # ---- the store as a whole

    def open_for_writing(self) -> None:
        """Make the store if it is new, and prove that it can be written."""
        self.check_format()
        try:
            if not self._exists("store.json"):
                self._write_json("store.json", {"format": FORMAT})
            probe = f".probe-{uuid.uuid4().hex}"
            self._write_json(probe, {})
            self._fs_and_root[0].rm_file(self._path(probe))
        except Exception as error:
            raise self._unusable(error, "cannot be written") from error

    def check_format(self) -> None:
        """Refuse a store written by another version, and a remote one that cannot be reached."""
        try:
            found = self._read_json("store.json")
        except FileNotFoundError as error:
            if "bucket does not exist" in str(error):  # S3's words; elsewhere it shows when the store is opened
                raise self._unusable(error, "cannot be read") from error
            return
        except _Unreadable as error:
            raise UsageError(f"store: {error}: cannot be read; is this a corgi store?") from None
        except Exception as error:
            raise self._unusable(error, "cannot be read") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            other = show_value(found.get("format") if isinstance(found, dict) else found)
            raise UsageError(
                f"store: {self.uri} has format {other}, and this version reads and writes format {FORMAT}; use another "
                "store=… or the version that made it"
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise what a file system says as a UsageError, but for what is not there."""
        try:
            yield
        except (*_NO_FILE, StageError):
            raise
        except Exception as error:
            raise self._unusable(error, "cannot be read") from error

    def _unusable(self, error: Exception, what: str) -> UsageError:
        if isinstance(error, UsageError):
            return error
        if is_remote(self.uri):
            return UsageError(f"store: {self.uri} {what}: {describe_error(error)}")
        if isinstance(error, OSError):
            return UsageError(f"store: {self.uri} {what} ({error}); give a folder that you may write with store=…")
        raise error

    # ---- artifacts

    def output(self, stage: str, fingerprint: str) -> Output:
        """Return write access to an artifact's folder."""
        return Output(
            self._uri("artifacts", stage, fingerprint),
            stage,
            fingerprint,
            fence=self._fence(_lease(stage, fingerprint)),
        )

    def artifact(self, stage: str, fingerprint: str) -> Artifact:
        """Return read access to an artifact's folder."""
        return Artifact(self._uri("artifacts", stage, fingerprint), stage, fingerprint)

    def artifacts(self, stages: Iterable[str]) -> Iterator[Artifact]:
        """Yield all artifacts of these stages, whether they are complete or not."""
        for stage in stages:
            for fingerprint in self._names_in(f"artifacts/{stage}"):
                yield self.artifact(stage, fingerprint)

    def completion(self, stage: str, fingerprint: str) -> Completion:
        """Return how far an artifact is."""
        artifact = self.artifact(stage, fingerprint)
        if artifact.exists(COMPLETE):
            return Completion(complete=True)
        units = len(artifact.glob(f"{UNITS}/*.json"))
        planned = artifact.planned_units() if units else None
        return Completion(complete=False, units_done=units, units_planned=planned)

    def completions(self, artifacts: Mapping[str, str]) -> dict[str, Completion]:
        """Return how far these artifacts are, by the names of their stages; they are asked for at once."""
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            return dict(zip(artifacts, pool.map(lambda one: self.completion(*one), artifacts.items()), strict=True))

    @contextlib.contextmanager
    def leasing(
        self, run: str, artifacts: Iterable[Artifact], times: LeaseTimes, report: Callable[[str], None]
    ) -> Iterator[Leases]:
        """Keep other drivers, on any machine, from this run and from making these artifacts; wait for those that do.

        Without a ``run`` no record of one is written meanwhile.
        """
        leases = Leases(self.uri, self.local_base / "locks", run=run, times=times, report=report)
        names = [_lease(one.stage, one.fingerprint) for one in artifacts]
        with leases.holding([_run_lease(run), *names] if run else names):
            self._leases = leases
            try:
                yield leases
            finally:
                self._leases = None

    @contextlib.contextmanager
    def lock(self, artifacts: Iterable[Artifact]) -> Iterator[None]:
        """Hold the leases of artifacts that are mended, in a run to its end; UsageError where another is at it."""
        if self._leases is None:
            with self.leasing("", artifacts, LeaseTimes(wait=0), _log.warning):
                yield
        else:
            for artifact in artifacts:
                self._leases.take(_lease(artifact.stage, artifact.fingerprint))
            yield

    def check_leases(self, *, fresh: bool = False) -> None:
        """Return while this driver holds all leases that it took; raise Superseded when another has taken over."""
        if self._leases is not None:
            self._leases.check(fresh=fresh)

    def release(self, stage: str, fingerprint: str) -> None:
        """Let other drivers have an artifact that is done."""
        if self._leases is not None:
            self._leases.release(_lease(stage, fingerprint))

    def _fence(self, name: str) -> Fence | None:
        return None if self._leases is None else self._leases.fence(name)

    # ---- runs

    def write_run(self, record: RunRecord) -> None:
        """Replace a run's record in one step; of a run that another driver has taken over it is that one's to write."""
        try:
            self._write_json(_run_file(record.run), record.to_json(), PRIVATE, self._fence(_run_lease(record.run)))
        except LeaseLost as error:
            _log.warning("the record of the run is not written: %s", error)

    def read_run(self, run: str) -> RunRecord | None:
        """Return a run's record, or None where there is none."""
        try:
            return self._parse_run(run, self._fs_and_root[0].cat_file(self._path(_run_file(run))))
        except PermissionError:
            if self.local_root is None:
                raise
            return None  # of another user of this machine
        except _NO_FILE:
            return None

    def _parse_run(self, run: str, content: bytes) -> RunRecord:
        where = one_line(f"{self.uri}/{_run_file(run)}")
        try:
            record = RunRecord.parse(self._parse(_run_file(run), content), where)
        except _Unreadable as error:
            raise UsageError(
                f"{error}: is not the record of a run: run its config again, or remove its folder"
            ) from None
        if record.run != run:  # by which the run's files are found, and deleted
            raise UsageError(
                f"{where}: run: found {show_value(record.run)}: expected the name of its folder, {show_value(run)}: "
                "give the folder its name back, or remove its folder"
            )
        return record

    def write_heartbeat(self, run: str, content: Mapping[str, Any]) -> None:
        """Replace a run's sign of life."""
        self._write_json(f"runs/{run}/{_HEARTBEAT}", content)

    def read_heartbeat(self, run: str) -> Any:
        """Return the content of a run's sign of life, or None where there is none that can be read."""
        try:
            return self._read_json(f"runs/{run}/{_HEARTBEAT}")
        except (*_NO_FILE, PermissionError, _Unreadable):
            return None

    def tracking_folder(self, run: str) -> Output:
        """Return the folder of what a run recorded and its tracking server has not taken yet."""
        return Output(self._uri("runs", run, "tracking"), "store", "")

    def runs(self, prefix: str = "") -> Iterator[RunRecord]:
        """Yield the records of runs with such an id, the latest started first; the log names unreadable ones once."""
        records = []
        for run, content in self._contents_of_runs(prefix).items():
            try:
                records.append(self._parse_run(run, content))
            except UsageError as error:
                if str(error) not in self._said:
                    _log.warning("%s", error)
                self._said.add(str(error))
        yield from sorted(records, key=lambda record: record.started, reverse=True)

    def _contents_of_runs(self, prefix: str) -> dict[str, bytes]:
        """Read the records of these runs, by their ids; those of another user of this machine are left out."""
        if self.local_root is None:
            with self._reading():
                cache = self.local_base / "records.db"
                return cached_records(self._fs_and_root[0], self._path("runs"), RECORD, prefix, cache)

        def read(run: str) -> bytes | None:
            try:
                return bytes(self._fs_and_root[0].cat_file(self._path(_run_file(run))))
            except (*_NO_FILE, PermissionError):
                return None

        runs = [run for run in self.run_names() if run.startswith(prefix)]
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:  # the folder may lie on another machine
            return {run: found for run, found in zip(runs, pool.map(read, runs), strict=True) if found is not None}

    def run_names(self) -> list[str]:
        """List the ids of all runs, whether their records can be read or not."""
        return self._names_in("runs")

    def model_digests(self) -> list[str]:
        """List the digests of the models from outside that the store keeps."""
        return self._names_in("models")

    def _names_in(self, folder: str) -> list[str]:
        try:
            with self._reading():
                found = self._fs_and_root[0].ls(self._path(folder), detail=False)
        except _NO_FILE:
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def find_run(self, name: str | None) -> RunRecord:
        """Return the latest run, or the latest whose id starts with ``name``."""
        if name is not None and not name.strip():  # such as "$RUN" of a variable that is not set
            raise UsageError("run: found an empty name: expected a run's id or its beginning: `corgi status` lists all")
        for record in self.runs(name or ""):
            return record
        for run in self.run_names():
            if name is not None and run.startswith(name):
                self.read_run(run)  # which says why it cannot be read
        known = ", ".join(record.run for record in itertools.islice(self.runs(), 5)) or "none yet"
        hint = f"; another store is named by --store {name[6:]}" if name and name.startswith("store=") else ""
        raise UsageError(f"run {name or ''}: not found in the store {self.uri}; runs there: {known}{hint}")

    def log_folder(self, run: str) -> Path:
        """Return a local folder for a run's logs (for a remote store, a folder of this machine)."""
        folder = self.local_base / "runs" / run / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log_address(self, run: str, name: str) -> str:
        """Return the address of a file of a run's logs in the store."""
        return self._uri("runs", run, "logs", name)

    def write_log(self, run: str, name: str, content: bytes) -> None:
        """Replace a file of a run's logs."""
        Output(self._uri("runs", run, "logs"), "store", "").write_bytes(name, content, mode=PRIVATE)

    def read_log(self, run: str, name: str) -> bytes:
        """Return a file of a run's logs; empty where there is none."""
        try:
            return bytes(self._fs_and_root[0].cat_file(self._path(f"runs/{run}/logs/{name}")))
        except _NO_FILE:
            return b""

    # ---- files

    def _uri(self, *parts: str) -> str:
        return "/".join((self.uri.rstrip("/"), *parts))

    def _path(self, name: str) -> str:
        return f"{self._fs_and_root[1]}/{name}"

    def _exists(self, name: str) -> bool:
        return bool(self._fs_and_root[0].exists(self._path(name)))

    def _read_json(self, name: str) -> Any:
        return self._parse(name, self._fs_and_root[0].cat_file(self._path(name)))

    def _parse(self, name: str, content: bytes) -> Any:
        with parsing(lambda reason: _Unreadable(f"{one_line(self.uri)}/{one_line(name)}: {reason}")):
            return load_json(content, max_bytes=LARGEST_DOCUMENT)

    def _write_json(self, name: str, content: Any, mode: int | None = None, fence: Fence | None = None) -> None:
        folder, _, file = name.rpartition("/")
        text = json.dumps(content, indent=1, default=str) + "\n"
        output = Output(self._uri(folder) if folder else self.uri, "store", "", fence=fence)
        output.check_lease()
        output.write_bytes(file, text.encode(), mode=mode)


def _lease(stage: str, fingerprint: str) -> str:
    return f"{stage}-{fingerprint}"


def _run_lease(run: str) -> str:
    return f"run-{run}"


def _run_file(run: str) -> str:
    return f"runs/{run}/{RECORD}"
