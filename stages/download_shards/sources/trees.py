"""A tree of files on this machine or at a remote address, read by their relative names."""

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from stages.storage.filesystems import is_remote, kind_at, open_address

_READS_AT_ONCE = 32  # from a remote store, where a request spends its time waiting
_BATCH = 64  # files in memory


class OutsideTree(OSError):
    """The name leads out of the tree."""


Content = bytes | OSError
"""A file's content, or why it cannot be read."""


def leads_out(name: str) -> bool:
    """Return whether a relative name leads out of its tree, links aside."""
    path = PurePosixPath(name)
    return not path.name or path.is_absolute() or ".." in path.parts


class LocalTree:
    """A folder of this machine; links out of it are not followed."""

    def __init__(self, root: Path) -> None:
        self._root, self._resolved = root, root.resolve()

    def exists(self) -> bool:
        """Return whether the top is a folder."""
        return self._root.is_dir()

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return (self._root / name).is_file()

    def address(self, name: str) -> str:
        """Return the address of a file."""
        return str(self._root / name)

    def names(self) -> Iterator[str]:
        """Yield the names of all files, in any order."""
        for folder, _, files in os.walk(self._root):
            for name in files:
                yield (Path(folder) / name).relative_to(self._root).as_posix()

    def read(self, names: Iterable[str]) -> Iterator[Content]:
        """Yield the content of each file, in order, as it is asked for."""
        return map(self._read, names)

    def _read(self, name: str) -> Content:
        path = self._root / name
        try:
            if not path.resolve().is_relative_to(self._resolved):
                return OutsideTree(name)
            return path.read_bytes()
        except OSError as error:
            return error


class RemoteTree:
    """A folder at an address that fsspec knows; errors that may pass are raised."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._fs, self._root = open_address(address)

    def exists(self) -> bool:
        """Return whether the top is a folder."""
        return kind_at(self._fs, self._root) == "directory"

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return kind_at(self._fs, f"{self._root}/{name}") == "file"

    def address(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self._address}/{name}"

    def names(self) -> Iterator[str]:
        """Yield the names of all files, in any order."""
        return (str(found)[len(self._root) + 1 :] for found in self._fs.find(self._root))

    def read(self, names: Iterable[str]) -> Iterator[Content]:
        """Yield the content of each file, in order; some are prefetched."""
        left = iter(names)
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            while batch := list(itertools.islice(left, _BATCH)):
                yield from pool.map(self._read, batch)

    def _read(self, name: str) -> Content:
        if leads_out(name):
            return OutsideTree(name)
        try:
            content: bytes = self._fs.cat_file(f"{self._root}/{name}")
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            return error
        return content


Tree = LocalTree | RemoteTree
"""Names are relative to its top and have slashes."""


def open_tree(path: str) -> Tree:
    """Return the tree at a local path or a remote address."""
    return RemoteTree(path) if is_remote(path) else LocalTree(Path(path))
