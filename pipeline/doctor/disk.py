"""Free space where a run writes: the store, the temporary folder, the cache of remote files."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.finding import Finding, Subject, error, ok, warning
from stages.storage.cache import LocalCache
from stages.storage.filesystems import is_remote, root_address

_LITTLE = 10 * 2**30
_TOO_LITTLE = 2**30
_RAY_FULL = 0.95  # above which Ray spills no objects any more
_FEW_FILES = 10_000


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the space of each folder."""
    folders = {"the temporary folder": Path(tempfile.gettempdir())}
    if subject.config is not None:
        if not is_remote(subject.config.store):
            folders["the store"] = Path(root_address(subject.config.store))
        cache = subject.config.storage.cache
        folders["the cache"] = cache.expanduser() if cache else LocalCache.of_this_machine().folder
    for name, folder in folders.items():
        yield check_folder(name, folder)


def check_folder(name: str, folder: Path) -> Finding:
    """Return the free space of one folder, or of the nearest above it that exists."""
    existing = next(one for one in (folder.resolve(), *folder.resolve().parents) if one.exists())
    usage = shutil.disk_usage(existing)
    files = os.statvfs(existing)
    found = f"{name} ({folder}) has {usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} GiB"
    remedy = "make room, or use another: store=…, storage.cache, TMPDIR"
    if usage.free < _TOO_LITTLE:
        return error("disk", found, remedy)
    if files.f_files and files.f_favail < _FEW_FILES:
        return warning("disk", f"{name} ({folder}) has room for {files.f_favail} more files", remedy)
    if usage.free < _LITTLE:
        return warning("disk", found, remedy)
    if usage.used / usage.total > _RAY_FULL:
        return warning("disk", f"{found}: Ray spills no objects to a disk that is over 95 % full", remedy)
    return ok("disk", found)
