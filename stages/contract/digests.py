"""SHA-256 of files on this machine, remembered by path, size, time of change and inode, so that each is read once.

Who plans an experiment again and again would read its whole source each time. The memory is a file that the plan names
(in the store where that is local); without it, files are read each time.
"""

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any

from stages.contract.errors import InputFault
from stages.contract.parsing import shown
from stages.storage.filesystems import explaining, is_remote, open_address
from stages.storage.listing import find_files
from stages.storage.walking import Found, Kind, is_hidden, is_inside, walk

_TABLE = (
    "CREATE TABLE IF NOT EXISTS checked_digests "
    "(path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, inode INTEGER, sha256 BLOB, checksum INTEGER) "
    "WITHOUT ROWID"
)
_TOO_NEW_NS = 2_000_000_000  # a file changed so lately may change again without its time showing it
_COMMIT_SECONDS = 5.0  # what a kill may cost
_log = logging.getLogger(__name__)


class DigestMemory:
    """Digests of files in an SQLite database; open as a context. One that is damaged is moved away, and begun anew."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        try:
            self._database: sqlite3.Connection | None = self._connect()
        except sqlite3.DatabaseError as error:
            if not self._move_away(error):
                raise
            self._database = self._connect()
        self._committed = time.monotonic()

    def _connect(self) -> sqlite3.Connection:
        self._path.touch(0o600)  # it names files
        database = sqlite3.connect(self._path, timeout=30)
        try:
            database.execute(_TABLE)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _move_away(self, error: sqlite3.DatabaseError) -> bool:
        """Move a damaged database away; False: something else is wrong, such as a disk that may not be written."""
        if isinstance(error, sqlite3.OperationalError):
            return False
        aside = self._path.with_name(f"{self._path.name}.damaged")
        self._path.replace(aside)
        _log.warning("%s: found damage (%s): it is moved to %s, and files are read anew", self._path, error, aside)
        return True

    def __enter__(self) -> "DigestMemory":
        return self

    def __exit__(self, *error: object) -> None:
        """Keep what was learned."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.DatabaseError):  # it is read anew
                self._database.commit()
            self._database.close()

    def digest(self, file: Path) -> bytes:
        """Return the SHA-256 of a file, from memory where it has not changed since."""
        if self._database is None:
            return read_digest(file)
        try:
            return self._digest(file, self._database)
        except OverflowError:  # a time or an inode of 64 bits, of which SQLite's numbers have 63
            return read_digest(file)
        except sqlite3.DatabaseError as error:
            self._database.close()
            self._database = self._connect() if self._move_away(error) else None
            return read_digest(file)

    def _digest(self, file: Path, database: sqlite3.Connection) -> bytes:
        before, path = _state(file), os.path.realpath(file)
        key = _key(path)
        known = database.execute(
            "SELECT sha256, checksum FROM checked_digests WHERE path = ? AND size = ? AND mtime_ns = ? AND inode = ?",
            (key, *before),
        ).fetchone()
        if known is not None and known[1] == _checksum(path, before, known[0]):
            return bytes(known[0])
        found = read_digest(file)
        if _state(file) == before and time.time_ns() - before[1] > _TOO_NEW_NS:
            row = (key, *before, found, _checksum(path, before, found))
            database.execute("INSERT OR REPLACE INTO checked_digests VALUES (?, ?, ?, ?, ?, ?)", row)
            if time.monotonic() - self._committed > _COMMIT_SECONDS:
                database.commit()
                self._committed = time.monotonic()
        return found


def _key(path: str) -> str | bytes:
    """Return the path as SQLite takes it, whose texts are UTF-8; one that is none is kept as its bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _checksum(path: str, state: tuple[int, int, int], sha256: bytes) -> int:
    """Return the checksum of a row: a digest with a flipped bit would make everything anew, as of another source."""
    return zlib.crc32(f"{path}\n{state}\n".encode("utf-8", "surrogateescape") + bytes(sha256))


_memory: ContextVar[DigestMemory | None] = ContextVar("digest_memory", default=None)


@contextlib.contextmanager
def remembering(path: Path) -> Iterator[None]:
    """Remember digests in this file while the context is open; within another one, in that one's file."""
    if _memory.get() is not None:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            memory = stack.enter_context(DigestMemory(path))
        except (OSError, sqlite3.Error) as error:  # a store that may only be read can be planned on all the same
            _log.info("digests are not remembered: %s cannot be written (%s)", path, error)
            yield
            return
        token = _memory.set(memory)
        stack.callback(_memory.reset, token)
        yield


def file_digest(file: Path) -> bytes:
    """Return the SHA-256 of a file's content."""
    memory = _memory.get()
    return read_digest(file) if memory is None else memory.digest(file)


def read_digest(file: Path) -> bytes:
    """Read the file for its SHA-256."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _state(file: Path) -> tuple[int, int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of :func:`folder_files`; or FileNotFoundError.

    Raises:
        InputFault: there is something else, whose content nothing is known of.
    """
    if not path.exists():
        raise FileNotFoundError(str(path))
    if path.is_file():
        return hashlib.sha256(file_digest(path)).hexdigest()
    if not path.is_dir():
        raise InputFault(
            f"{shown(path)}: found a FIFO, a socket or a device: expected a file or a folder: correct the path"
        )
    return folder_digest({name: file_digest(file).hex() for name, file in folder_files(path).items()})


def folder_files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that count, by their names in it: all but README.md and what is hidden.

    Hidden is also what lies in a hidden folder: programs that download or show a folder leave times of theirs there.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    named = {file.relative_to(folder): file for file in files}
    return {name.as_posix(): file for name, file in named.items() if not any(map(is_hidden, name.parts))}


def folder_digest(files: Mapping[str, str]) -> str:
    """Return the digest of a folder whose files have these SHA-256, by their names."""
    digest = hashlib.sha256()
    for name in sorted(files, key=PurePosixPath):
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + bytes.fromhex(files[name]))
    return digest.hexdigest()


def tree_digest(root: Path, counts: Callable[[Found], bool] = lambda found: True) -> str:
    """Return the SHA-256 of a file, or of a folder as a stranger made it; or FileNotFoundError.

    A folder's is that of names and of what they stand for; of files that lie in it and may be read, of their contents.
    ``counts`` says what is left out.
    """
    if not root.is_dir():
        return content_digest(root)
    digest = hashlib.sha256()
    for found in sorted(walk(root), key=lambda found: found.name):
        if found.name.rpartition("/")[2] == "README.md" or not counts(found):
            continue
        digest.update(os.fsencode(found.name) + b"\0" + found.kind.name.encode() + b"\0")
        if found.kind is Kind.FILE:
            with contextlib.suppress(OSError):  # it is counted when it is read
                digest.update(file_digest(root / found.name))
    return digest.hexdigest()


def content_digests(path: str, names: Iterable[str]) -> dict[str, bytes]:
    """Return what identifies each file of a folder, by its name in it; those that cannot be read are left out.

    Of a link that leads out of the folder, and of what is no regular file, nothing is read.
    """
    if is_remote(path):
        listed = dict(remote_checksums(path, "**"))
        return {name: listed[name].encode() for name in names if name in listed}
    root, found = Path(path), {}
    resolved = os.path.realpath(root)
    for name in names:
        file = f"{resolved}/{name}"
        if _is_file_inside(file, resolved):
            with contextlib.suppress(OSError):  # it is counted when it is read
                found[name] = file_digest(Path(file))
    return found


def _is_file_inside(file: str, folder: str) -> bool:
    try:
        return is_inside(file, folder) and os.path.isfile(file)
    except ValueError:  # no file can have such a name, which a list may hold
        return False


def digest_of_files(path: str, names: Iterable[str]) -> str:
    """Return the digest of files of a folder: of their names, and of what identifies their contents."""
    ordered = sorted(names)
    contents = content_digests(path, ordered)
    digest = hashlib.sha256()
    for name in ordered:
        digest.update(os.fsencode(name) + b"\0" + contents.get(name, b"") + b"\0")
    return digest.hexdigest()


def address_digest(address: str) -> str:
    """Return the digest of a local path's content, or of a remote one's names and checksums as its store tells them."""
    if not is_remote(address):
        return content_digest(Path(address))
    listed = json.dumps(remote_checksums(address, "**"))
    return hashlib.sha256(listed.encode()).hexdigest()


def remote_checksums(address: str, pattern: str) -> list[list[str]]:
    """List the files below a remote address (or the one there) that match, by name, with their stores' checksums.

    Of an address that holds credentials, neither names nor checksums depend on these: they change, and their digests
    are recorded.
    """
    from stages.contract.secrets import redact_addresses

    with explaining(address):
        fs, root = open_address(address, keep_listings=True)
        found = list(find_files(fs, root, pattern))
        if not found and fs.info(root)["type"] != "directory":  # which raises where there is nothing
            found = [root]
        if redact_addresses(address) != address:
            plain = [(name.partition("?")[0], fs.info(name)) for name in found]
            return [[_relative(name, root.partition("?")[0]), _content_checksum(info)] for name, info in plain]
        return [[_relative(name, root), str(fs.checksum(name))] for name in found]


def _relative(name: str, root: str) -> str:
    return name[len(root) + 1 :] or name.rpartition("/")[2]


def _content_checksum(info: Mapping[str, Any]) -> str:
    known = {key: str(value) for key, value in info.items() if key not in {"name", "url"}}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
