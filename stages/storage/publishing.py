"""Give a finished file its name: on the disk first, and readable for whom the umask says."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from stages.storage.patience import patiently

_UMASK = re.compile(r"^Umask:\s*([0-7]+)$", re.MULTILINE)
_STATUS = Path("/proc/self/status")


def publish(partial: Path, target: Path, *, is_private: bool = False, check: Callable[[], None] = lambda: None) -> None:
    """Have the system write a finished file to the disk, and only then let it appear under its name.

    Libraries that write by temporary files of their own leave these to their owner alone; others may read the file as
    the umask says, unless it ``is_private``. ``check`` is called just before; what it raises keeps the file away.
    """
    try:
        _publish(partial, target, is_private=is_private, check=check)
    except FileNotFoundError:
        check()  # whoever has taken over has deleted the temporary file
        raise


def _publish(partial: Path, target: Path, *, is_private: bool, check: Callable[[], None]) -> None:
    if not is_private and not partial.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        partial.chmod(0o666 & ~umask())
    where = str(target.parent)
    patiently(where, lambda: sync(partial))  # else a machine that goes down may leave an empty file under the name
    check()
    patiently(where, lambda: os.replace(partial, target))
    patiently(where, lambda: sync(target.parent))


def sync(path: Path) -> None:
    """Have the system write a file or folder to the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def umask() -> int:
    """Return the process's umask, without setting it where the system tells it: other threads make files meanwhile."""
    if _STATUS.is_file() and (found := _UMASK.search(_STATUS.read_text())) is not None:
        return int(found[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
