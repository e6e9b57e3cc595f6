"""Which files of artifacts were compared with their checksums on this machine, so that each is once.

The memory is a file for each artifact in the cache's folder, to which every process appends a number for each file: a
hash of its name, size, time of change and inode. A file that is written again, or copied here anew, is compared again.
Where the folder cannot be used, each process compares for itself.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

import xxhash

from stages.contract.errors import InputFault
from stages.storage.cache import cache_folder

_ENTRY = 8  # bytes
_KEPT = 90 * 24 * 3600  # seconds without a new file after which an artifact is forgotten
_MOST_ARTIFACTS = 64  # whose entries a process holds


class VerifiedFiles:
    """Those of one artifact; processes and threads may use it at once."""

    def __init__(self, uri: str) -> None:
        self._known: set[bytes] = set()
        self._read = 0
        self._log: Path | None = None
        with contextlib.suppress(OSError, InputFault):
            folder = cache_folder() / "verified"
            folder.mkdir(parents=True, exist_ok=True)
            self._log = folder / xxhash.xxh3_128_hexdigest(uri.encode())
            if not self._log.exists():
                _forget_old(folder)

    @classmethod
    def of(cls, uri: str) -> "VerifiedFiles":
        """Return those of the artifact at an address."""
        return _of(uri, os.environ.get("CORGI_CACHE"))

    def once(self, name: str, path: Path, compare: Callable[[], bool]) -> None:
        """Compare the file, unless it was, as it is now, here or in another process.

        ``compare`` returns whether there is anything to compare it with. What took the file's place meanwhile is
        another one.

        Raises:
            FileNotFoundError: there is no such file, and nothing to compare it with.
        """
        try:
            entry = _entry(name, path)
        except FileNotFoundError:
            compare()  # which says so of a file that has a checksum
            raise
        except OSError:  # which its reader meets
            compare()
            return
        if not self._holds(entry) and compare():
            self._add(entry)

    def _holds(self, entry: bytes) -> bool:
        if entry not in self._known:
            self._read_on()
        return entry in self._known

    def _add(self, entry: bytes) -> None:
        self._known.add(entry)
        if self._log is not None:
            with contextlib.suppress(OSError), self._log.open("ab", buffering=0) as log:
                log.write(entry)

    def _read_on(self) -> None:
        """Take in what other processes have added since."""
        if self._log is None:
            return
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(self._read)
            added = log.read()
            added = added[: len(added) // _ENTRY * _ENTRY]
            self._read += len(added)
            self._known.update(added[at : at + _ENTRY] for at in range(0, len(added), _ENTRY))


@functools.lru_cache(maxsize=_MOST_ARTIFACTS)
def _of(uri: str, _folder: str | None) -> VerifiedFiles:
    return VerifiedFiles(uri)


def _entry(name: str, path: Path) -> bytes:
    found = path.stat()
    state = f"{name}\n{found.st_size} {found.st_mtime_ns} {found.st_ino}"
    return xxhash.xxh3_64_digest(state.encode("utf-8", "surrogateescape"))


def _forget_old(folder: Path) -> None:
    for log in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - log.stat().st_mtime > _KEPT:
                log.unlink()
