"""The leases that a driver holds while it runs: taken in order, renewed by a thread, released when a stage is done.

A lease of another driver is waited for: until it is released, or until it was not renewed for its timeout, by the
monotonic clock of this machine. A driver of this machine that is gone needs no waiting: the lock that it held while it
lived is free. docs/recovery.md has the protocol.
"""

import contextlib
import dataclasses
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cluster.attention import AttentiveClock
from pipeline.errors import Superseded, UsageError
from stages.contract.errors import LeaseLost
from stages.storage.lease_files import LeaseFiles, lease_files
from stages.storage.leases import Fence, Holder, holder_of
from stages.storage.patience import patiently

_log = logging.getLogger(__name__)

BEATS = 6  # renewals within a timeout
_GRACE_BEATS = 2  # that a remote store's lease which had expired rests, so that no writer goes by an old reading of it
_POLLS = 12  # readings of another driver's lease within its timeout
_LONGEST_POLL = 5.0  # seconds
_MOST_PAUSE = 30.0  # seconds; half of the default timeout
_REMIND_SECONDS = 600.0
_TIMEOUTS = (1.0, 3600.0)  # of others that are believed


@dataclass(frozen=True)
class LeaseTimes:
    """``storage.lease_timeout`` and ``storage.lease_wait``, in seconds."""

    timeout: float = 60.0
    wait: float = 86_400.0

    @property
    def beat(self) -> float:
        """Return the time between two renewals."""
        return self.timeout / BEATS

    @property
    def most_pause(self) -> float:
        """Return the most seconds that count between two looks at another's lease, whose timeout may be shorter."""
        return min(self.timeout / 2, _MOST_PAUSE)


@dataclass
class _Held:
    """A lease that this driver holds."""

    name: str
    files: LeaseFiles
    number: int
    holder: Holder
    fence: Fence
    lock: FileLock
    is_lost: bool = False


class Leases:
    """All leases of one driver, by the names of what they are for."""

    def __init__(
        self, store: str, locks: Path, *, run: str, times: LeaseTimes = LeaseTimes(), report: Callable[[str], None]
    ) -> None:
        self._store, self._locks, self._times, self._report = store.rstrip("/"), locks, times, report
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        self._holder = Holder(
            uuid.uuid4().hex, socket.gethostname(), os.getpid(), run, since, times.timeout, lock=_identity(locks)
        )
        self._held: dict[str, _Held] = {}
        self._mutex = threading.Lock()
        self._is_closed = threading.Event()
        self._error: LeaseLost | None = None
        self._rest_until = 0.0
        self._clock = AttentiveClock(times.most_pause)
        self._thread = threading.Thread(target=self._renew_all, name="leases", daemon=True)
        self.has_waited = False
        """Whether another driver had to be waited for: what is done may not be what it was."""

    @contextlib.contextmanager
    def holding(self, names: Sequence[str]) -> Iterator["Leases"]:
        """Take the leases, one after another in the order given, and hold them to the end of the block.

        Raises:
            UsageError: another driver holds one, and goes on holding it.
        """
        self._locks.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        waits = [self._wait_for(name, self._times) for name in names]
        try:
            for number, wait in enumerate(waits):
                self._take(wait, waits[number + 1 :])
            self._rest()
            yield self
        finally:
            self._is_closed.set()
            self._thread.join(self._times.timeout)
            for name in list(self._held):
                self.release(name)

    def fence(self, name: str) -> Fence | None:
        """Return what writers need to know of a lease; None: it is not held here."""
        held = self._held.get(name)
        return None if held is None else held.fence

    def check(self, *, fresh: bool = False) -> None:
        """Return while all leases are held, as far as the last renewals have shown, or as they are now.

        Raises:
            Superseded: another driver has taken one over.
        """
        if fresh:
            for held in list(self._held.values()):
                self._renew(held)
        if self._error is not None:
            raise Superseded(str(self._error))

    def release(self, name: str) -> None:
        """Let others take a lease at once."""
        with self._mutex:
            held = self._held.pop(name, None)
            if held is None:
                return
            if not held.is_lost:
                last = dataclasses.replace(held.holder, released=True)
                try:
                    held.files.replace(held.number, last.to_bytes())
                except Exception as error:  # noqa: BLE001  whatever a file system raises: it will expire
                    _log.warning("%s: the lease could not be released, and expires by itself: %s", name, error)
        held.lock.release()

    # ---- taking

    def take(self, name: str) -> None:
        """Take one more lease, if it is not held; UsageError: another driver is alive that holds it."""
        if name not in self._held:
            self._take(self._wait_for(name, dataclasses.replace(self._times, wait=0)))
            self._rest()

    def _rest(self) -> None:
        """Wait, once for all leases that were taken over, until no writer goes by an old reading of them."""
        time.sleep(max(0.0, self._rest_until - time.monotonic()))

    def _wait_for(self, name: str, times: LeaseTimes) -> "_Wait":
        return _Wait(name, f"{self._store}/leases/{name}", times, self._report, self._clock)

    def _take(self, wait: "_Wait", later: Sequence["_Wait"] = ()) -> None:
        """Take a lease; while it is waited for, those that are taken ``later`` are observed, too."""
        lock = FileLock(self._locks / f"{wait.name}.lock", thread_local=False)
        try:
            self._take_with(lock, wait, later)
        except BaseException:
            lock.release()
            raise

    def _take_with(self, lock: FileLock, wait: "_Wait", later: Sequence["_Wait"]) -> None:
        name, files = wait.name, wait.files
        while True:
            number, holder = wait.poll()
            has_lock = lock.is_locked or _try(lock)
            is_free = number == 0 or (holder is not None and holder.released)
            is_gone = has_lock and holder is not None and bool(holder.lock) and holder.lock == self._holder.lock
            if not is_free and not is_gone and not wait.is_over(number, holder):
                self.has_waited = True
                for other in later:
                    other.observe()
                wait.pause()
            else:
                # Without the lock, which a driver that waits or lets go may have, it must not seem to be free.
                claim = self._holder if has_lock else dataclasses.replace(self._holder, lock="")
                if self._make(files, number + 1, claim):
                    break
        beat = self._times.beat
        fence = Fence(
            wait.address, number + 1, self._holder.token, name, beat, bool(files.is_conditional), files.is_remote
        )
        with self._mutex:
            self._held[name] = _Held(name, files, number + 1, claim, fence, lock)
        if not is_free:
            why = "which is gone" if is_gone else "whose lease has expired"
            self._report(f"{name}: taken over from {_words(holder)}, {why}")
            self._rest_until = time.monotonic() + (_GRACE_BEATS * beat if files.is_remote else 0)

    def _make(self, files: LeaseFiles, number: int, claim: Holder) -> bool:
        """Make the file of a number, and delete those below; False: another driver was first."""
        if not files.create(number, claim.to_bytes()):
            return False
        if files.newest() > number:  # the file of this number was there before, and deleted by those who came after
            files.delete(number)
            return False
        files.delete_below(number)
        return True

    # ---- renewing

    def _renew_all(self) -> None:
        beat = 0
        while not self._is_closed.wait(self._times.beat):
            beat += 1
            for held in list(self._held.values()):
                self._renew(held, beat)

    def _renew(self, held: _Held, beat: int = 0) -> None:
        with self._mutex:
            if held.is_lost or self._held.get(held.name) is not held:  # released since it was listed, or taken again
                return
            content = dataclasses.replace(held.holder, beat=beat or time.monotonic_ns()).to_bytes()
            try:
                if not held.files.renew(held.number, content):
                    lost = held.fence.lost()  # first: what is lost without an error would never be looked at again
                    self._error, held.is_lost = self._error or lost, True
            except Exception as error:  # noqa: BLE001  whatever a file system raises: the next renewal may succeed
                _log.warning("%s: the lease could not be renewed, which is tried again: %s", held.name, error)


class _Wait:
    """What this driver has seen of another's lease, by its own clock, which all waits of the driver read in turn.

    A pause in which this process was held up counts little: another driver of the same machine was held up, too, and
    may not have renewed its lease yet.
    """

    def __init__(
        self, name: str, address: str, times: LeaseTimes, report: Callable[[str], None], clock: AttentiveClock
    ) -> None:
        self.name, self.address, self.files = name, address, lease_files(address)
        self._times, self._report, self._clock = times, report, clock
        self._begun: float | None = None
        self._seen_at = 0.0
        self._seen: tuple[int, object] | None = None
        self._is_alive = False
        self._reported: float | None = None
        self._timeout = times.timeout

    def observe(self) -> None:
        """Begin to observe a lease that is not waited for yet: its timeout runs beside that of another."""
        if self._seen is None and (number := patiently(self.address, self.files.newest)):
            self._note(number)

    def poll(self) -> tuple[int, Holder | None]:
        """Return the highest number, or 0, and who made its file; a store that is away is waited for."""
        number = patiently(self.address, self.files.newest)
        return number, patiently(self.address, lambda: holder_of(self.files, number)) if number else None

    def _note(self, number: int) -> float:
        """Read the lease's mark, and return the time at which the reading began."""
        now, found = self._clock.now(), patiently(self.address, lambda: self.files.read(number))
        seen = (number, None if found is None else found[1])
        if seen != self._seen:
            self._is_alive = self._seen is not None
            self._seen, self._seen_at = seen, self._clock.now()  # the store may have been away since ``now``
        return now

    def is_over(self, number: int, holder: Holder | None) -> bool:
        """Return whether the lease has expired: its mark has not changed for its timeout while it was observed.

        Raises:
            UsageError: its holder is alive, and was waited for long enough.
        """
        now = self._note(number)
        self._begun = now if self._begun is None else self._begun
        lowest, highest = _TIMEOUTS
        self._timeout = self._times.timeout if holder is None else min(max(holder.timeout, lowest), highest)
        if now - self._seen_at >= self._timeout:
            return True
        if self._is_alive and now - self._begun >= self._times.wait:
            raise UsageError(
                f"{self.name}: is being made by {_words(holder)}, which is alive and was waited for "
                f"{self._times.wait:g} s: run again when it is done, end it, or raise storage.lease_wait"
            )
        if self._reported is None or now - self._reported > _REMIND_SECONDS:
            self._reported = now
            self._report(
                f"{self.name}: is being made by {_words(holder)}: waiting until it is done, or its lease not "
                f"renewed for {self._timeout:g} s; at most {self._times.wait:g} s (storage.lease_wait); Ctrl-C ends it"
            )
        return False

    def pause(self) -> None:
        """Wait until the next reading, for less than the clock counts at once."""
        time.sleep(min(self._timeout / _POLLS, self._times.timeout / _POLLS, _LONGEST_POLL))


def _words(holder: Holder | None) -> str:
    return "a driver that its file does not name" if holder is None else holder.words


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError, NotImplementedError):  # another process has it, or the file system has no locks
        return False
    return True


def _identity(folder: Path) -> str:
    """Return what names a folder of locks among all machines, until this one is started again; "": it has no name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        folder.mkdir(parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return ""
    return f"{boot}:{found.st_dev}:{found.st_ino}"
