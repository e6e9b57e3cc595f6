"""Work on one item after another in a child process with limits, so that the worst item costs itself alone.

For readers in C that strangers' bytes may crash, stall or fill the memory. The child is started at the first item, or
before, and serves many; one that dies or exceeds a limit is started again for the next item. It is handed a few items
ahead, so that it never waits for its parent; those that it had not begun when it died are handed to the next child. The
limits and what the child is allowed are set in :mod:`cluster.isolated_child`. The parent sends the name of a factory,
its settings and bytes; what comes back is JSON and bytes, so that a child taken over by an item has no hold on the
parent.
"""

import collections
import contextlib
import dataclasses
import json
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from cluster.attention import Countdown
from cluster.child_process import MOST_OUTSTANDING, ChildProcess, one_line, release_child, take_child
from cluster.errors import IsolationFailed, ItemLimit
from cluster.isolated_child import Handler, Limits

_PREFETCHED_BYTES = 16 << 20  # bytes of items that wait for the child or for the next to be handed over
_PAUSES = (0.0, 0.5, 2.0)  # seconds before an item is tried again whose child was killed

Reply = tuple[dict[str, Any], bytes]


class _Killed(ItemLimit):
    """Somebody has killed or stopped the child: the system, which is short of memory, or an administrator."""


class Isolated:
    """Calls a handler in a child process, where ``make`` makes it: a function of a module, given settings as JSON."""

    def __init__(self, make: Callable[..., Handler], limits: Limits, settings: Mapping[str, Any] | None = None) -> None:
        named = {"module": make.__module__, "function": make.__qualname__, "limits": dataclasses.asdict(limits)}
        self._key = json.dumps(named).encode()
        self._opening = json.dumps(named | {"settings": dict(settings or {})}).encode()
        self._limits = limits
        self._child: ChildProcess | None = None
        self._finalizer: Callable[[], Any] = lambda: None
        self._lock = threading.Lock()

    def __call__(self, content: bytes) -> Reply:
        """Return what the handler returns for an item.

        Raises:
            ItemLimit: the item exceeded a limit or ended its process.
            IsolationFailed: the child cannot be started, or its handler raised what it should have handled.
        """
        (outcome,) = self.map([content])
        if isinstance(outcome, ItemLimit):
            raise outcome
        return outcome

    def map(self, contents: Iterable[bytes]) -> Iterator[Reply | ItemLimit]:
        """Yield for each item, in order, what the handler returns for it, or the limit that it exceeded.

        Items are read a few ahead. One whose child was killed is tried again, a few times.

        Raises:
            IsolationFailed: the child cannot be started, or its handler raised what it should have handled.
        """
        pending = collections.deque[bytes]()  # sent, and not yet replied to
        with self._lock:
            try:
                for content in contents:
                    self._send(content)
                    pending.append(content)
                    while len(pending) == MOST_OUTSTANDING or sum(map(len, pending)) > _PREFETCHED_BYTES:
                        yield self._take_oldest(pending)
                while pending:
                    yield self._take_oldest(pending)
            finally:
                if pending:  # such as Ctrl-C: the next item must not get the reply to one of these
                    self.close()

    def start(self) -> None:
        """Start the child now, and not at the first item.

        Raises:
            IsolationFailed: it cannot be started.
        """
        with self._lock:
            if self._child is None:
                self._start()

    def close(self) -> None:
        """End the child, if there is one; the next item starts another."""
        if self._child is not None:
            self._child.is_spent = True
            self._child = None
            self._finalizer()

    def _take_oldest(self, pending: "collections.deque[bytes]") -> Reply | ItemLimit:
        """Return the reply to the oldest item that was sent; if that one costs the child, the others are sent again."""
        child = self._child
        outcome = self._reply_to(pending[0])
        pending.popleft()
        if self._child is not child:  # none, or another one, which has read that item alone
            for content in pending:
                self._send(content)
        return outcome

    def _reply_to(self, content: bytes) -> Reply | ItemLimit:
        try:
            try:
                head, body = self._receive(self._limits.wall_seconds)
            except _Killed:  # no fault of the item's, which has limits of its own
                head, body = self._ask_again(content)
        except ItemLimit as limit:
            return limit
        if "failed" in head:
            raise IsolationFailed(f"a handler in a child process failed: {one_line(head['failed'])}")
        if "limit" in head:
            return ItemLimit(f"needs more than {self._limits.memory_bytes / 1e6:,.0f} MB of memory")
        return head, body

    def _ask_again(self, content: bytes) -> Reply:
        for seconds in _PAUSES[:-1]:
            time.sleep(seconds)
            self._send(content)
            try:
                return self._receive(self._limits.wall_seconds)
            except _Killed:
                continue
        time.sleep(_PAUSES[-1])
        self._send(content)
        return self._receive(self._limits.wall_seconds)

    def _send(self, content: bytes) -> None:
        if self._child is not None and not self._child.num_outstanding and self._child.has_ended():
            self.close()  # it died between two items, which none of them has caused
        child = self._child or self._start()
        child.drop_noise()
        self._hand_over(child, content)

    def _start(self) -> ChildProcess:
        for seconds in _PAUSES:
            try:
                return self._open()
            except _Killed:
                time.sleep(seconds)
            except ItemLimit as error:
                raise IsolationFailed(f"a child process for isolated work does not start: {error}") from error
        raise IsolationFailed(
            "a child process for isolated work is killed whenever it starts: is memory short on this machine?"
        )

    def _open(self) -> ChildProcess:
        child = self._child = take_child(self._key)
        self._finalizer = weakref.finalize(self, release_child, self._key, child)
        self._hand_over(child, b"", opening=self._opening)
        head, _ = self._receive(self._limits.start_seconds)
        if "failed" in head:
            self.close()
            raise IsolationFailed(f"a child process for isolated work does not start: {one_line(head['failed'])}")
        return child

    def _hand_over(self, child: ChildProcess, content: bytes, *, opening: bytes = b"") -> None:
        with contextlib.suppress(OSError):  # a child that has ended is found where its next reply is awaited
            child.send(content, opening=opening, seconds=self._limits.wall_seconds)

    def _receive(self, seconds: float) -> Reply:
        """Return the reply to the oldest item; without one the child is closed."""
        child = self._child
        assert child is not None
        try:
            found = child.receive(countdown=Countdown(seconds), most_bytes=self._limits.memory_bytes)
            if found is not None:
                return found
        except TimeoutError:
            stopped = child.is_stopped()
            self.close()
            if stopped:
                raise _Killed("its process was stopped") from None
            raise ItemLimit(f"takes more than {seconds:g} s") from None
        except OSError:  # the connection broke
            pass
        except (ValueError, RecursionError):  # it is no reply
            child.process.kill()
            raise ItemLimit(self._why_it_ended(child)[1]) from None
        status, why = self._why_it_ended(child)
        raise _Killed(why) if status == -signal.SIGKILL else ItemLimit(why)

    def _why_it_ended(self, child: ChildProcess) -> tuple[int | None, str]:
        status, last_line = child.why_it_ended()
        self.close()
        if status in (-signal.SIGPROF, -signal.SIGXCPU):
            return status, f"takes more than {self._limits.cpu_seconds:g} s of a processor"
        if status is not None and status < 0:
            return status, f"ended the process that read it by {signal.Signals(-status).name}"
        return status, f"ended the process that read it (exit status {status}{': ' if last_line else ''}{last_line})"
