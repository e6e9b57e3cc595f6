"""List the files below an address: its characters stand for themselves, and a listing that fails is an error.

fsspec's own glob reads ``[``, ``*`` and ``?`` of a folder's address as patterns, so it finds nothing there, or files of
other folders. fsspec's own walk takes a folder whose listing fails for an empty one.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.dirfs import DirFileSystem

ALL = "**"
Info = Mapping[str, Any]
"""What a file system says of a file: its name, type, size and so on."""


def find_files(fs: AbstractFileSystem, root: str, pattern: str = ALL) -> dict[str, Info]:
    """Return what lies below a folder and is no folder, by its path in the file system, in the order of the paths.

    ``pattern`` is ``**`` for all of it, or that of the names relative to the folder, each part as fnmatch reads it. Of
    what is no folder, or not there, nothing is returned. Errors of the file system are raised.
    """
    depth = None if pattern == ALL else pattern.count("/") + 1
    if depth is None and _lists_at_once(fs):
        found = dict(_at_once(fs, root))
    else:
        found = {str(info["name"]): info for info in _walk(fs, root, depth)}
    # Some stores keep a file in the place of a folder, which is not one below it.
    names = {path: path.removeprefix(root).removeprefix("/") for path in found if path.rstrip("/") != root}
    return {path: found[path] for path in sorted(names) if _matches(names[path], pattern)}


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("/"), pattern.split("/")
    return pattern == ALL or (len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)))


def _lists_at_once(fs: Any) -> bool:
    """Return whether a file system lists a whole tree by requests of its own, rather than by fsspec's walk."""
    while isinstance(inner := getattr(fs, "wrapped", fs), DirFileSystem) or inner is not fs:
        fs = inner.fs if isinstance(inner, DirFileSystem) else inner
    kind = type(fs)
    if issubclass(kind, AsyncFileSystem):
        return kind._find is not AsyncFileSystem._find
    return kind.find is not AbstractFileSystem.find


def _at_once(fs: AbstractFileSystem, root: str) -> Iterator[tuple[str, Info]]:
    try:
        listed = fs.find(f"{root}/", withdirs=True, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from ((str(path), info) for path, info in listed.items() if info.get("type") != "directory")


def _walk(fs: AbstractFileSystem, root: str, depth: int | None) -> Iterator[Info]:
    """Yield all that is no folder, down to so many folders deep; each folder is listed by a call of its own."""
    waiting, seen = [(fs._strip_protocol(f"{root}/"), 1)], {root}
    while waiting:
        folder, level = waiting.pop()
        for info in _listed(fs, folder):
            path = str(info["name"]).rstrip("/")
            if info["type"] != "directory":
                yield info
            elif path not in seen and (depth is None or level < depth):
                seen.add(path)
                waiting.append((path, level + 1))


def _listed(fs: AbstractFileSystem, folder: str) -> list[Info]:
    try:
        return list(fs.ls(folder, detail=True))
    except (FileNotFoundError, NotADirectoryError):  # a file, or a folder that was deleted since its name was listed
        return []
