"""Local copies of remote files: shared by all processes of one user on a machine, and bounded in size.

A copy counts as used whenever it is asked for. Where all copies together pass the limit, those that were not used for
longest go, but none that was asked for within the last minute: by then whoever asked has opened it, and what is open or
mapped stays readable without its name. So the limit may be passed by what is fetched within a minute. With each copy is
kept the version of the file that it was made of; a file that was written anew is fetched anew.

Any number of processes may fetch, use and delete at once: a lock on one file guards every change (shared by those who
only use a copy).

    files/<root>/<name>      the copies; files of one root (an artifact) lie beside one another
    versions/<root>/<name>   of which version each is
    partial/                 what is being fetched
    bytes, lock              how much all copies take, and the lock
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec

FOLDER = "CORGI_CACHE"  # environment variables by which a run's processes are told of storage.cache…
GIGABYTES = "CORGI_CACHE_GIGABYTES"  # …and storage.cache_gigabytes

_FRACTION_OF_DISK = 0.25  # the limit where none is set
_LEFT = 0.9  # share of the limit that stays, so that not every file makes room for itself alone
_USED_LATELY = 60  # seconds within which a copy is not deleted
_ABANDONED = 3600  # seconds after which a fetch that wrote nothing more counts as killed


@dataclass(frozen=True)
class LocalCache:
    """A folder of copies, and how many bytes they may take (None: a quarter of the disk)."""

    folder: Path
    limit: int | None = None

    @classmethod
    def of_this_machine(cls) -> "LocalCache":
        """Return the copies that the environment names, or those in the temporary folder."""
        folder = os.environ.get(FOLDER) or f"{tempfile.gettempdir()}/corgi-cache-{os.getuid()}"
        gigabytes = os.environ.get(GIGABYTES)
        return cls(Path(folder), int(float(gigabytes) * 1e9) if gigabytes else None)

    def get(self, fs: fsspec.AbstractFileSystem, path: str, *, root: str, name: str, version: str) -> Path:
        """Return a copy of this version of the file ``name`` of ``root``, which lies at ``path``; open it at once."""
        place = f"{hashlib.sha256(root.encode()).hexdigest()[:16]}/{name}"
        target, of = self.folder / "files" / place, self.folder / "versions" / place
        if not self._use(target, of, version):
            self._fetch(fs, path, target, of, version)
        return target

    def _use(self, target: Path, of: Path, version: str) -> bool:
        """Mark a copy as used, where there is one of this version."""
        with contextlib.suppress(FileNotFoundError), self._lock(fcntl.LOCK_SH):
            if of.read_text() == version:
                os.utime(target)
                return True
        return False

    def _fetch(self, fs: fsspec.AbstractFileSystem, path: str, target: Path, of: Path, version: str) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.folder / "partial" / uuid.uuid4().hex
        for file in (target, of, partial):
            file.parent.mkdir(parents=True, exist_ok=True)
        try:
            fs.get_file(path, str(partial))
            size = partial.stat().st_size
            with self._lock(fcntl.LOCK_EX):
                os.utime(partial)
                partial.replace(target)
                of.write_text(version)  # after the file: what a kill leaves in between is of no asked-for version
                self._make_room(size)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, added: int) -> None:
        """Count a new copy, and delete the oldest where all together are too large; the lock is held."""
        counter = self.folder / "bytes"
        total = added + (int(counter.read_text() or 0) if counter.exists() else 0)
        limit = self.limit or int(shutil.disk_usage(self.folder).total * _FRACTION_OF_DISK)
        if total > limit:
            total = self._delete_down_to(int(limit * _LEFT))
        counter.write_text(str(total))

    def _delete_down_to(self, size: int) -> int:
        """Delete the copies that were not used for longest, and return how many bytes are left."""
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
        """Hold the lock; it goes with the process that holds it.

        Raises:
            FileNotFoundError: to use a copy, where there are none yet.
        """
        flags = os.O_RDWR | (os.O_CREAT if kind == fcntl.LOCK_EX else 0)
        handle = os.open(self.folder / "lock", flags, 0o600)
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)
