"""What is seen of processes and folders that others change meanwhile: what has gone is passed over."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil


def descendants(pid: int | None = None) -> list[psutil.Process]:
    """Return the processes that a process, or this one, has started, and those that they have."""
    with contextlib.suppress(psutil.Error):
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return found
    return []


def command_of(process: psutil.Process) -> list[str]:
    """Return the command line of a process; none where it has ended, be it reaped or not."""
    with contextlib.suppress(psutil.Error):
        words: list[str] = process.cmdline()
        return words
    return []


def name_of(process: psutil.Process) -> str:
    """Return the name of a process; "" where it has ended."""
    with contextlib.suppress(psutil.Error):
        return str(process.name())
    return ""


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, each of which may be gone by then; `Path.rglob` fails where a folder goes."""
    for base, _, names in os.walk(folder):
        yield from (Path(base, name) for name in names)


def content_of(file: Path) -> bytes:
    """Return the bytes of a file; none where it has gone, or is no file that can be read."""
    with contextlib.suppress(FileNotFoundError):
        if file.is_file() and not file.is_symlink():
            return file.read_bytes()
    return b""
