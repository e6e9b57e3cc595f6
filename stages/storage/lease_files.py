"""The numbered files of a lease, of which the highest holds: made by one alone, renewed, read, deleted.

What a kind of store promises (docs/recovery.md):

- folders that many machines mount: a file is made whole by a hard link, which only one can make (an empty one holds its
  place where there are no links). No lock of the file system is used;
- S3 with conditional writes: ``If-None-Match: *`` makes, ``If-Match`` renews. Whether the server keeps to them is
  tried out with the first file;
- other object stores: a file is written, and read again after a pause. Two drivers that write within the same pause are
  kept apart unless one of them sleeps just then; that one notices when it renews or checks.
"""

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import Any, Protocol

import fsspec

from stages.storage.filesystems import is_local, open_address
from stages.storage.publishing import write_new

SETTLE_SECONDS = 2.0
"""The pause of stores without conditional writes between a write and the reading that decides who was last."""
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_SUFFIX = ".json"


class LeaseFiles(Protocol):
    """The files of one lease, by their numbers."""

    is_remote: bool
    is_conditional: bool | None
    """Whether a write may depend on what is there; None: not known before the first file is made."""

    def newest(self) -> int:
        """Return the highest number, or 0."""
        ...

    def read(self, number: int) -> tuple[bytes, Any] | None:
        """Return a file's content, and a mark that changes whenever it is renewed; None: it is gone."""
        ...

    def create(self, number: int, content: bytes) -> bool:
        """Make a file that is not there; False: another has made it."""
        ...

    def renew(self, number: int, content: bytes) -> bool:
        """Change the mark of a file that its maker alone renews; False: it is gone."""
        ...

    def replace(self, number: int, content: bytes) -> None:
        """Write a file's last content, if it is still there."""
        ...

    def delete_below(self, number: int) -> None:
        """Delete all files of lower numbers."""
        ...

    def delete(self, number: int) -> None:
        """Delete a file, if it is there."""
        ...


def lease_files(address: str) -> LeaseFiles:
    """Return the files of the lease at an address."""
    fs, root = open_address(address)
    # Without patience: renewals are repeated anyway, and one that waits would keep the others.
    return _Local(Path(root)) if is_local(fs) else _Remote(getattr(fs, "wrapped", fs), root)


def _numbers(names: list[str]) -> list[int]:
    stems = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
    return [int(stem) for stem in stems if stem.isascii() and stem.isdigit()]


class _Local:
    """Files of a folder that other machines may have mounted."""

    is_remote = False
    is_conditional: bool | None = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}{_SUFFIX}"

    def _all(self) -> list[int]:
        try:
            return _numbers(os.listdir(self._folder))
        except FileNotFoundError:
            return []

    def _is_gone(self, number: int, error: OSError) -> bool:
        """Return whether a file is not there; NFS says ESTALE of it, and of all files while its server is away."""
        return error.errno == errno.ENOENT or (error.errno == errno.ESTALE and number not in self._all())

    def newest(self) -> int:
        return max(self._all(), default=0)

    def read(self, number: int) -> tuple[bytes, Any] | None:
        try:
            with self._path(number).open("rb") as file:  # opening asks the server, where NFS would keep what it knew
                return file.read(), os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            if self._is_gone(number, error):
                return None
            raise

    def create(self, number: int, content: bytes) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        return write_new(self._path(number), content)

    def renew(self, number: int, content: bytes) -> bool:
        try:
            os.utime(self._path(number))  # never makes the file again, and no byte of it is ever half written
        except OSError as error:
            if self._is_gone(number, error):
                return False
            raise
        return True

    def replace(self, number: int, content: bytes) -> None:
        with contextlib.suppress(FileNotFoundError), self._path(number).open("r+b") as file:
            file.truncate()
            file.write(content)

    def delete_below(self, number: int) -> None:
        for other in self._all():
            if other < number:
                self.delete(other)

    def delete(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)


class _Remote:
    """Objects of a store, by conditional writes where it has them."""

    is_remote = True

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str) -> None:
        self._fs, self._root = fs, root
        protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        self.is_conditional: bool | None = None if "s3" in protocols else False
        self._tag = ""

    def _path(self, number: int) -> str:
        return f"{self._root}/{number}{_SUFFIX}"

    def _all(self) -> list[int]:
        try:
            listed = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return _numbers([str(path).rpartition("/")[2] for path in listed])

    def newest(self) -> int:
        return max(self._all(), default=0)

    def read(self, number: int) -> tuple[bytes, Any] | None:
        try:
            content = self._fs.cat_file(self._path(number))
        except FileNotFoundError:
            return None
        return content, content

    def create(self, number: int, content: bytes) -> bool:
        path = self._path(number)
        if self.is_conditional is not False:
            if not put_new(self._fs, path, content):
                return self._is(number, content)  # a request that was repeated is refused by its own object
            if self.is_conditional is None:
                self.is_conditional = not put_new(self._fs, path, content)
            if self.is_conditional:
                self._tag = self._tag_of(path)
                return True
        elif self._fs.exists(path):
            return False
        else:
            self._fs.pipe_file(path, content)
        time.sleep(SETTLE_SECONDS)
        return self._is(number, content)

    def _is(self, number: int, content: bytes) -> bool:
        found = self.read(number)
        return found is not None and found[0] == content

    def _tag_of(self, path: str) -> str:
        return str(self._fs.info(path)["ETag"])

    def renew(self, number: int, content: bytes) -> bool:
        path = self._path(number)
        if (
            not self.is_conditional
        ):  # then a stale holder may make its file again, and so no number but the highest holds
            if self.newest() != number:
                return False
            self._fs.pipe_file(path, content)
            return True
        try:
            self._tag = str(self._fs.pipe_file(path, content, IfMatch=self._tag)["ETag"])
        except FileNotFoundError:
            return False
        except OSError as error:
            if not _is_refused(error):
                raise
            found = self.read(number)
            if found is None:
                return False
            self._tag = self._tag_of(path)  # the reply to the request before was lost: nobody else writes this file
        return True

    def replace(self, number: int, content: bytes) -> None:
        self.renew(number, content)

    def delete_below(self, number: int) -> None:
        for other in self._all():
            if other < number:
                self.delete(other)

    def delete(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(number))


def put_new(fs: fsspec.AbstractFileSystem, path: str, content: bytes, **options: Any) -> bool:
    """Upload an object that is not there; False: it is, where the store keeps to conditions."""
    try:
        fs.pipe_file(path, content, mode="create", **options)
    except OSError as error:
        if not _is_refused(error):
            raise
        return False
    return True


def _is_refused(error: OSError) -> bool:
    """Whether a condition of a write did not hold; servers that name no condition leave s3fs with a plain OSError."""
    if isinstance(error, FileExistsError):
        return True
    reply = getattr(error.__cause__, "response", None)
    return isinstance(reply, dict) and str(reply.get("Error", {}).get("Code")) in _REFUSED
