"""Temporary folders that go also when their process is killed: the next process that makes one removes them.

Each holds a file that its process keeps locked while it lives; a folder whose file is free is nobody's any more. It
gets the name under which others look only once that is locked.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

_OWNER: Final = "owner"
#: Of this machine alone: several may share a folder whose locks they do not see of each other.
SCRATCH: Final = f"corgi-scratch-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-"
_SWEEP_SECONDS: Final = 60.0  # between two looks of a process at what others have left
_last_sweep: dict[str, float] = {}


@contextlib.contextmanager
def owned_folder(prefix: str, where: Path) -> Iterator[Path]:
    """Yield a new folder of this user alone, and remove it at the end; those of killed processes go now."""
    sweep(prefix, where)
    folder = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=where))
    try:
        with (folder / _OWNER).open("w") as owner:
            with contextlib.suppress(OSError):  # a file system without locks, on which nobody finds one free either
                fcntl.flock(owner, fcntl.LOCK_EX)
            folder = folder.rename(where / folder.name.removeprefix("."))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(what: str) -> Iterator[Path]:
    """Yield a folder for temporary files of this process, which may be killed; ``what`` becomes a part of its name."""
    with owned_folder(SCRATCH, Path(tempfile.gettempdir())) as folder:
        made = folder / what
        made.mkdir()
        yield made


def sweep_scratch() -> None:
    """Remove what killed processes of this user have left on this machine."""
    _last_sweep.clear()
    sweep(SCRATCH, Path(tempfile.gettempdir()))


def sweep(prefix: str, where: Path) -> None:
    """Remove the folders of a prefix that processes of this user left behind which were killed, now and then."""
    now, key = time.monotonic(), f"{where}/{prefix}"
    if now < _last_sweep.get(key, -_SWEEP_SECONDS) + _SWEEP_SECONDS:
        return
    _last_sweep[key] = now
    for folder in where.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), (folder / _OWNER).open() as owner:
            if os.fstat(owner.fileno()).st_uid == os.getuid() and not folder.is_symlink() and _is_free(owner):
                shutil.rmtree(folder, ignore_errors=True)


def _is_free(owner: IO[str]) -> bool:
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
