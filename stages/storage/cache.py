"""A local cache of remote files: shared by all processes of one user on a machine, and bounded in size.

A cached file counts as used whenever it is requested. When the cache exceeds its limit, the least recently used files
are deleted, but none that was requested within the last minute: by then the caller has opened it, and an open or mapped
file stays readable without its name. So the limit may be exceeded by what is fetched within a minute. The version of
each file is kept with it; a file that was written again is fetched again.

Any number of processes may fetch, use and delete at once: a lock on one file protects every change (shared by those
that only read).

    files/<root>/<name>      the cached files; those of one root (an artifact) lie beside one another
    versions/<root>/<name>   the version of each
    partial/                 what is being fetched
    bytes, lock              the size of the cache, and the lock
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec

from stages.contract.bounds import MOST_GIGABYTES
from stages.contract.environment import number_in_environment
from stages.contract.errors import ArtifactError
from stages.storage.private_folders import folder_in_temporary, private_folder
from stages.storage.publishing import sync

FOLDER = "CORGI_CACHE"  # environment variables that carry storage.cache to all processes of a run…
GIGABYTES = "CORGI_CACHE_GIGABYTES"  # …and storage.cache_gigabytes

_KEY = "storage.cache"
_FRACTION_OF_DISK = 0.25  # the limit where none is set
_LEFT = 0.9  # fraction of the limit that stays after deleting, so that not every fetch has to delete
_USED_LATELY = 60  # seconds after a request within which a file is not deleted
_ABANDONED = 3600  # seconds after which a fetch that wrote nothing more counts as killed


def cache_folder() -> Path:
    """Return the cache's folder, made and checked as one of this user alone; looked at each time, as it may go away."""
    named = os.environ.get(FOLDER)
    return private_folder(Path(named), _KEY) if named else folder_in_temporary("corgi-cache", _KEY)


def _passes(check: Callable[[Path], object], cached: Path) -> bool:
    try:
        check(cached)
    except ArtifactError:
        return False
    return True


@dataclass(frozen=True)
class LocalCache:
    """A cache folder and its limit in bytes (None: a quarter of the disk)."""

    folder: Path
    limit: int | None = None

    @classmethod
    def of_this_machine(cls) -> "LocalCache":
        """Return the cache that the environment names, or this user's in the temporary folder.

        Raises:
            InputFault: the folder is not safe, or its size is no number.
        """
        gigabytes = number_in_environment(GIGABYTES, most=MOST_GIGABYTES)
        return cls(cache_folder(), None if gigabytes is None else int(gigabytes * 1e9))

    def get(
        self,
        fs: fsspec.AbstractFileSystem,
        path: str,
        *,
        root: str,
        name: str,
        version: str,
        check: Callable[[Path], object] = lambda fetched: None,
        always: bool = False,
    ) -> Path:
        """Return this version of the file ``name`` of ``root``, which lies at ``path``; to be opened at once.

        ``check`` raises an ArtifactError where what was fetched is not to be used. What is cached already is checked
        too where that is ``always`` done, and fetched anew where it has rotted here.
        """
        key = f"{hashlib.sha256(root.encode()).hexdigest()[:16]}/{name}"
        if not self._use(key, version) or (always and not _passes(check, self._file(key))):
            self._fetch(fs, path, key, version, check)
        return self._file(key)

    def _file(self, key: str) -> Path:
        return self.folder / "files" / key

    def _version_file(self, key: str) -> Path:
        return self.folder / "versions" / key

    def _use(self, key: str, version: str) -> bool:
        """Mark a file as used, if this version of it is cached."""
        with contextlib.suppress(FileNotFoundError), self._lock(fcntl.LOCK_SH):
            if self._version_file(key).read_text() == version:
                os.utime(self._file(key))
                return True
        return False

    def _fetch(
        self, fs: fsspec.AbstractFileSystem, path: str, key: str, version: str, check: Callable[[Path], object]
    ) -> None:
        target, version_file = self._file(key), self._version_file(key)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.folder / "partial" / uuid.uuid4().hex
        for file in (target, version_file, partial):
            file.parent.mkdir(parents=True, exist_ok=True)
        try:
            fs.get_file(path, str(partial))
            check(partial)
            size = partial.stat().st_size
            sync(partial)  # else a machine that goes down may leave an empty file that counts as cached
            with self._lock(fcntl.LOCK_EX):
                os.utime(partial)
                partial.replace(target)
                version_file.write_text(version)  # last: a kill in between leaves a version that nobody requests
                self._make_room(size)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, added: int) -> None:
        """Count a new file, and delete the least recently used ones if the cache is too large; the lock is held."""
        counter = self.folder / "bytes"
        total = added + (int(counter.read_text() or 0) if counter.exists() else 0)
        limit = self.limit or int(shutil.disk_usage(self.folder).total * _FRACTION_OF_DISK)
        if total > limit:
            total = self._delete_down_to(int(limit * _LEFT))
        counter.write_text(str(total))

    def _delete_down_to(self, size: int) -> int:
        """Delete the least recently used files, and return how many bytes are left."""
        now = time.time()
        for partial in (self.folder / "partial").iterdir():
            with contextlib.suppress(FileNotFoundError):  # its fetch has ended
                if now - partial.stat().st_mtime > _ABANDONED:
                    partial.unlink()
        stats = [(path.stat(), path) for path in (self.folder / "files").rglob("*") if path.is_file()]
        total = sum(stat.st_size for stat, _ in stats)
        for stat, path in sorted(stats, key=lambda found: found[0].st_mtime):
            if total <= size or now - stat.st_mtime < _USED_LATELY:
                break
            path.unlink()
            total -= stat.st_size
        return total

    @contextlib.contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        """Hold the lock, until this process ends at most; FileNotFoundError: a shared one, and nothing was cached."""
        flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if kind == fcntl.LOCK_EX else 0)
        handle = os.open(self.folder / "lock", flags, 0o600)
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)
