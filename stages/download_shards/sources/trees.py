"""A tree of files on this machine or at a remote address, read by their relative names."""

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from stages.storage.filesystems import is_local, kind_at, open_address
from stages.storage.listing import find_files
from stages.storage.walking import Found, Kind, TooLarge, is_hidden, is_inside, read_file, walk

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
    """A folder of this machine; links out of it are not followed, and nothing but regular files is opened."""

    def __init__(self, root: Path) -> None:
        self._root, self._resolved = root, os.path.realpath(root)
        self.tops = tuple(dict.fromkeys((str(root.absolute()), self._resolved)))
        """The absolute paths of the top."""

    def exists(self) -> bool:
        """Return whether the top is a folder."""
        return self._root.is_dir()

    def address(self, name: str) -> str:
        """Return the address of a file."""
        return str(self._root / name)

    def walk(self) -> Iterator[Found]:
        """Yield everything in it, in any order."""
        return walk(self._root)

    def read(self, names: Iterable[str], max_bytes: int) -> Iterator[Content]:
        """Yield the content of each file, in order, as it is asked for."""
        return (self._read(name, max_bytes) for name in names)

    def _read(self, name: str, max_bytes: int) -> Content:
        path = f"{self._resolved}/{name}"
        try:
            return read_file(path, max_bytes) if is_inside(path, self._resolved) else OutsideTree(name)
        except ValueError:  # a name that no file can have
            return FileNotFoundError(name)
        except OSError as error:
            return error


class RemoteTree:
    """A folder at an address that fsspec knows; errors that may pass are raised."""

    tops: tuple[str, ...] = ()

    def __init__(self, address: str) -> None:
        folder, chained, outer = address.partition("::")  # zip://folder::https://.../archive.zip
        self._before = folder if folder.endswith("://") else f"{folder.rstrip('/')}/"
        self._after = chained + outer
        self._fs, self._root = open_address(address)

    def exists(self) -> bool:
        """Return whether the top is a folder."""
        return kind_at(self._fs, self._root) == "directory"

    def address(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self._before}{name}{self._after}"

    def walk(self) -> Iterator[Found]:
        """Yield all files, in any order."""
        for path in find_files(self._fs, self._root):
            name = path.removeprefix(self._root).removeprefix("/")  # the top of an archive is ""
            yield Found(name, Kind.HIDDEN if any(map(is_hidden, name.split("/"))) else Kind.FILE)

    def read(self, names: Iterable[str], max_bytes: int) -> Iterator[Content]:
        """Yield the content of each file, in order; some are prefetched."""
        left = iter(names)
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            while batch := list(itertools.islice(left, _BATCH)):
                yield from pool.map(lambda name: self._read(name, max_bytes), batch)

    def _read(self, name: str, max_bytes: int) -> Content:
        if leads_out(name):
            return OutsideTree(name)
        path = f"{self._root}/{name}" if self._root else name
        try:
            if (self._fs.size(path) or 0) > max_bytes:
                return TooLarge(name)
            content: bytes = self._fs.cat_file(path)
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            return error
        return content


Tree = LocalTree | RemoteTree
"""Names are relative to its top and have slashes."""


def open_tree(path: str) -> Tree:
    """Return the tree at a local path or a remote address."""
    fs, root = open_address(path)
    return LocalTree(Path(root)) if is_local(fs) else RemoteTree(path)
