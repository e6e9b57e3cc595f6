"""Give a finished file its name: on the disk first, and readable for whom the umask says."""

import contextlib
import errno
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from stages.storage.patience import patiently

TEMPORARY: Final = ".tmp-"
"""How the name of a file begins that is not whole."""
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""How a file system says that it makes no hard links."""

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


def write_new(target: Path, content: bytes) -> bool:
    """Let a whole file appear under a name if it is free; return whether it was: of several writers, for one it is.

    Raises:
        OSError: it cannot be written; its ``filename`` says where, and nothing is left there.
    """
    with _beside(target) as partial:
        partial.write_bytes(content)
        sync(partial)
        try:
            os.link(partial, target)
        except FileExistsError:
            return partial.stat().st_nlink > 1  # NFS repeats a request whose reply was lost, and is refused then
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _claim(partial, target)
    return True


def _claim(partial: Path, target: Path) -> bool:
    """Give a file a name, if it is free, where there are no hard links: an empty one holds it for a moment."""
    try:
        target.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        partial.replace(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return True


def write_whole(target: Path, content: bytes) -> None:
    """Write a user's file: whole in the place of what is there, whose permissions stay, or not at all.

    A link stays one, and what is no file, such as /dev/stdout, is written as it is.

    Raises:
        OSError: it cannot be written; its ``filename`` says where, and what was there is as it was.
    """
    target = target.resolve()
    found = target.stat() if target.exists() else None
    if found is not None and not stat.S_ISREG(found.st_mode):
        target.write_bytes(content)
        return
    with _beside(target) as partial:
        partial.write_bytes(content)
        if found is not None:
            partial.chmod(stat.S_IMODE(found.st_mode))
        sync(partial)
        partial.replace(target)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield a hidden name in the file's folder for the length of the block, the errors of which name the file."""
    partial = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        yield partial
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error  # a write, and a sync, name no file
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


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
