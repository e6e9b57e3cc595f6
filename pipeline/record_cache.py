"""What a remote store's run records held, kept on this machine by the versions that the store names.

Hundreds of records are a request each; one listing says which of them are as they were. Records hold no credentials;
the file is this user's alone all the same, as the folder is that it lies in.
"""

import logging
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec

from stages.storage.listing import find_files

_TABLE = "CREATE TABLE IF NOT EXISTS records (path TEXT PRIMARY KEY, version TEXT, content BLOB) WITHOUT ROWID"
#: What fsspec's file systems call what changes with an object's content.
_VERSIONS = ("ETag", "etag", "md5Hash", "content_settings", "generation")
_WAIT_SECONDS = 5.0  # for another process that writes
_log = logging.getLogger(__name__)


def version_of(info: Mapping[str, Any]) -> str | None:
    """Return what identifies an object's content in a listing; None: the file system does not tell."""
    found = {name: str(info[name]) for name in _VERSIONS if info.get(name)}
    return f"{found} {info.get('size')}" if found else None


class RecordCache:
    """A file of this machine; where it cannot be used, nothing is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, versions: Mapping[str, str | None]) -> dict[str, bytes]:
        """Return the contents of those objects that are kept in these versions, by path."""
        kept = self._execute("SELECT path, version, content FROM records")
        return {path: content for path, version, content in kept if version and versions.get(path) == version}

    def put(self, contents: Mapping[str, bytes], versions: Mapping[str, str | None]) -> None:
        """Keep these contents, and forget all objects that have no version any more."""
        rows = [(path, versions[path], content) for path, content in contents.items() if versions.get(path)]
        self._execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", rows)
        gone = [(path,) for (path,) in self._execute("SELECT path FROM records") if path not in versions]
        self._execute("DELETE FROM records WHERE path = ?", gone)

    def _execute(self, statement: str, rows: Iterable[tuple[Any, ...]] | None = None) -> list[Any]:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(0o600)
            with closing(sqlite3.connect(self._path, timeout=_WAIT_SECONDS)) as database, database:
                database.execute(_TABLE)
                found = database.execute(statement) if rows is None else database.executemany(statement, rows)
                return found.fetchall()
        except (OSError, sqlite3.Error) as error:
            _log.info("run records are not kept: %s cannot be used (%s)", self._path, error)
            return []


def cached_records(fs: fsspec.AbstractFileSystem, folder: str, name: str, prefix: str, cache: Path) -> dict[str, bytes]:
    """Return the records in the folders below one, by the names of these that begin so.

    All are listed at once, and only those are requested that the file of this machine does not hold in their version.
    """
    versions = {path: version_of(info) for path, info in find_files(fs, folder).items() if path.endswith(f"/{name}")}
    runs = {path: path.removesuffix(f"/{name}").rpartition("/")[2] for path in versions}
    wanted = {path: run for path, run in runs.items() if run.startswith(prefix)}
    kept = RecordCache(cache)
    contents = {path: content for path, content in kept.get(versions).items() if path in wanted}
    missing = [path for path in wanted if path not in contents]
    if missing:
        found = fs.cat(missing, on_error="return")
        for error in (one for one in found.values() if isinstance(one, Exception)):
            if not isinstance(error, FileNotFoundError):  # it was removed meanwhile
                raise error
        read = {path: bytes(one) for path, one in found.items() if not isinstance(one, Exception)}
        kept.put(read, versions)
        contents |= read
    return {wanted[path]: content for path, content in contents.items()}
