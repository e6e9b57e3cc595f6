"""What the operating system allows: open files, shared memory, memory, and the length of socket paths."""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from cluster.embedded import LONGEST_SOCKET
from pipeline.doctor.finding import Finding, Subject, error, ok, warning

SHARED_MEMORY = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup/memory.max")
_FILES, _FEW_FILES = 65_536, 1_024
_SHARED = 2**30
_MEMORY, _LITTLE_MEMORY = 4 * 2**30, 2**30
_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # with the longest process id


def check(subject: Subject) -> Iterator[Finding]:
    """Yield each limit."""
    yield check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield check_shared_memory(SHARED_MEMORY)
    yield _check_memory()
    yield check_temporary_folder(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def check_open_files(limit: int) -> Finding:
    """Return whether so many open files are enough for Ray."""
    remedy = f"run `ulimit -n {_FILES}` before `ray start`, or raise nofile in /etc/security/limits.conf"
    if limit == resource.RLIM_INFINITY or limit >= _FILES:
        return ok("limits", "open files: " + ("no limit" if limit == resource.RLIM_INFINITY else str(limit)))
    kind = error if limit < _FEW_FILES else warning
    return kind("limits", f"open files: {limit}; Ray wants {_FILES}", remedy)


def check_shared_memory(folder: Path) -> Finding:
    """Return whether shared memory holds Ray's objects."""
    if not folder.is_dir():
        return warning("limits", f"there is no {folder}: Ray keeps objects on disk", f"mount a tmpfs at {folder}")
    usage = shutil.disk_usage(folder)
    found = f"{folder}: {usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} GiB"
    if usage.free < _SHARED:
        return warning(
            "limits",
            f"{found}: Ray keeps its objects on disk, slowly",
            "give a container more (docker --shm-size=4g; an emptyDir of medium Memory), or remove what lies there",
        )
    return ok("limits", found)


def _check_memory() -> Finding:
    found = psutil.virtual_memory()
    total, free = found.total, found.available
    if CGROUP.is_file() and (limit := CGROUP.read_text().strip()).isdigit():
        total, free = min(total, int(limit)), min(free, int(limit))
    text = f"memory: {free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB"
    if free >= _MEMORY:
        return ok("limits", text)
    return (error if free < _LITTLE_MEMORY else warning)(
        "limits", text, "end other work on the machine, or give the container more; lower resources.num_workers"
    )


def check_temporary_folder(folder: str) -> Finding:
    """Return whether the paths of sockets below a temporary folder are short enough for `ray start`.

    A Ray that a run starts itself finds a folder that is short enough.
    """
    length = len(os.fsencode(f"{folder.rstrip('/')}/{_SOCKET}"))
    if length > LONGEST_SOCKET:
        return warning(
            "limits",
            f"temporary folder {folder!r}: the paths of sockets in it take {length} bytes, and {LONGEST_SOCKET} are "
            "allowed, so that `ray start` fails",
            "set RAY_TMPDIR or TMPDIR to a short path, such as /tmp",
        )
    return ok("limits", f"temporary folder {folder!r}: short enough for Ray's sockets")
