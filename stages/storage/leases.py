"""Leases: which driver may make writes of an artifact count.

The driver that makes an artifact holds its lease, ``leases/<name>/<number>.json``, and renews it. Who takes it over
makes the file of the next number and deletes that of the one before, so a holder whose file is gone has lost the lease;
it is enough to ask for that file, and no clock of another machine is read. The number and the holder's token go with
the work to every process (:class:`Fence`), and each write that counts asks first. docs/recovery.md is the whole of it.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Self

import fsspec

from stages.contract.errors import LeaseLost
from stages.contract.parsing import load_json, shown
from stages.storage.lease_files import LeaseFiles, lease_files, put_new
from stages.storage.patience import patiently

_SHOWN = 80
_NUMBER = "lease"  # of a record, in the metadata of its object
_checked: dict[str, float] = {}
"""When this process last found a lease in a remote store to be held, by its token."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file names them."""

    token: str
    host: str = ""
    pid: int = 0
    run: str = ""
    since: str = ""
    timeout: float = 60.0
    """Seconds without a renewal after which it has expired."""
    lock: str = ""
    """The lock on the holder's machine that it holds while it lives."""
    beat: int = 0
    released: bool = False

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """Return whom a file names; None: it is damaged, or not written to its end yet."""
        try:
            found = load_json(content)
            return cls(**{one.name: _checked_type(one.type, found[one.name]) for one in fields(cls)})
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        return (json.dumps(asdict(self)) + "\n").encode()

    @property
    def words(self) -> str:
        """Who it is, for a message."""
        run = f", run {shown(self.run, _SHOWN)}" if self.run else ""
        return f"corgi on {shown(self.host, _SHOWN)} (process {self.pid}{run}) since {shown(self.since, _SHOWN)}"


def _checked_type(kind: Any, value: Any) -> Any:
    fits = type(value) is kind or (kind is float and type(value) is int)
    if fits and (kind is not float or abs(value) < math.inf):  # NaN is not, and no timeout ever passes it
        return value
    raise TypeError(f"expected {kind}")


def holder_of(files: LeaseFiles, number: int) -> Holder | None:
    """Return who made the file of a number; None: it is gone, or damaged."""
    found = files.read(number)
    return None if found is None else Holder.parse(found[0])


def boot_seconds() -> float:
    """Return the time since this machine started, also while it or this process slept."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True)
class Fence:
    """What a writer knows of the lease that its artifact is made under; pickled into every process that writes."""

    address: str
    number: int
    token: str
    name: str
    seconds: float = 10.0
    """How long a remote store's word is good for records and files of units."""
    is_conditional: bool = True
    is_remote: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave the file system handle behind."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def _files(self) -> LeaseFiles:
        return lease_files(self.address)

    def check(self, *, fresh: bool = True) -> None:
        """Return while the lease is held; a remote store is asked again only after a while, unless ``fresh``.

        Raises:
            LeaseLost: another driver has taken it over.
        """
        now = boot_seconds()
        if self.is_remote and not fresh and now - _checked.get(self.token, -self.seconds) < self.seconds:
            return
        if not patiently(self.address, self._is_held):
            raise patiently(self.address, self.lost)
        _checked[self.token] = now

    def _is_held(self) -> bool:
        holder = holder_of(self._files, self.number)
        if holder is None or holder.token != self.token:
            return False
        return self.is_conditional or self._files.newest() == self.number

    def lost(self) -> LeaseLost:
        """Return the error that says who has taken over."""
        _checked.pop(self.token, None)
        holder = holder_of(self._files, self._files.newest())
        by = "another driver" if holder is None or holder.token == self.token else holder.words
        return LeaseLost(
            f"{self.name}: the lease of this driver was taken over by {by}: nothing that this one writes counts any "
            "more, and what it had finished is kept: let the other go on, or end it and run again"
        )

    def put_record(self, fs: fsspec.AbstractFileSystem, path: str, content: bytes) -> None:
        """Upload a record that counts, unless one of a later holder is there; it carries the number of the lease."""
        self.check(fresh=False)
        if not self.is_conditional:
            fs.pipe_file(path, content)
            return
        named = {"Metadata": {_NUMBER: str(self.number)}}
        if put_new(fs, path, content, **named):
            return
        found = str((fs.metadata(path) or {}).get(_NUMBER, "0"))
        if found.isdigit() and int(found) > self.number:
            raise patiently(self.address, self.lost)
        self.check()
        fs.pipe_file(path, content, **named)
