"""Walk a folder of this machine as one that a stranger made: links out of it, loops, and files that are none."""

import os
import stat
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple


class Kind(Enum):
    """What a name in a folder stands for."""

    FILE = auto()
    """A file, or a link to one inside the folder, or to nothing."""
    OUTSIDE = auto()
    """A link that leads out of the folder."""
    SPECIAL = auto()
    """A FIFO, a socket, a device: opening it may block, or do something."""
    HIDDEN = auto()
    """A name that begins with a dot, or what systems leave behind; a folder is not entered."""
    REPEATED = auto()
    """A link to a folder that is walked under another name."""
    UNREADABLE = auto()
    """A folder that may not be listed."""


class Found(NamedTuple):
    """One name; it is relative to the folder, with slashes, and may hold bytes that are no text as surrogates."""

    name: str
    kind: Kind
    is_folder: bool = False


_LEFT_BEHIND = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "$recycle.bin"})


def is_hidden(name: str) -> bool:
    """Return whether a name, without folders, is hidden or one of those that systems leave behind."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def is_inside(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Return whether a path, links followed, lies in a folder."""
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return real == root or real.startswith(root.rstrip("/") + "/")


def walk(root: Path) -> Iterator[Found]:
    """Yield everything below a folder, in any order; each folder is entered once, real names before links."""
    top = os.path.realpath(root)
    seen: set[tuple[int, int]] = set()
    linked: list[str] = []
    yield from _walk(top, "", seen, linked)
    while linked:
        names, linked = sorted(linked), []
        for name in names:
            yield from _walk(top, name, seen, linked)


def _walk(top: str, start: str, seen: set[tuple[int, int]], linked: list[str]) -> Iterator[Found]:
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(f"{top}/{folder}")
            entries = list(os.scandir(f"{top}/{folder}"))
        except OSError:
            yield Found(folder, Kind.UNREADABLE, is_folder=True)
            continue
        if (status.st_dev, status.st_ino) in seen:
            yield Found(folder, Kind.REPEATED, is_folder=True)
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            found = _classify(entry, name, top)
            if found.is_folder and found.kind is Kind.FILE:
                (linked if entry.is_symlink() else waiting).append(name)
            else:
                yield found


def _classify(entry: os.DirEntry[str], name: str, top: str) -> Found:
    """Say what an entry is; a folder to be entered has the kind FILE."""
    is_folder = entry.is_dir(follow_symlinks=False)
    if is_hidden(entry.name):
        return Found(name, Kind.HIDDEN, is_folder)
    if entry.is_symlink():
        if not is_inside(entry.path, top):
            return Found(name, Kind.OUTSIDE, os.path.isdir(entry.path))
        is_folder = os.path.isdir(entry.path)
        is_special = os.path.exists(entry.path) and not is_folder and not os.path.isfile(entry.path)
        return Found(name, Kind.SPECIAL if is_special else Kind.FILE, is_folder)
    is_file = is_folder or entry.is_file(follow_symlinks=False)
    return Found(name, Kind.FILE if is_file else Kind.SPECIAL, is_folder)


class NotAFile(OSError):
    """A FIFO, a socket, a device, or a folder."""


class TooLarge(OSError):
    """A file has more bytes than are to be read."""


def read_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a regular file of at most so many bytes; nothing else is opened."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotAFile(f"{path} is no regular file")
    # Between the two it may become another: then this does not wait, and is asked again what it is.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise NotAFile(f"{path} is no regular file")
        if status.st_size > max_bytes:
            raise TooLarge(f"{path} has {status.st_size} bytes")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise TooLarge(f"{path} has more than {max_bytes} bytes")
    return content
