"""Cut off connections at their deadline, in whatever state: a server may send a byte of its header now and then."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

_TICK_SECONDS = 0.05


class Deadline:
    """The time that one address has; it may open several connections, one after another."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()
        self.is_over = False

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, at least a moment."""
        return max(self._end - time.monotonic(), _TICK_SECONDS)

    def limit(self, connection: socket.socket) -> None:
        """Cut this connection at the deadline, whatever is wrapped around it, until :meth:`release`."""
        handle = connection.dup()  # TLS takes the descriptor over
        with self._lock:
            self._connection = handle
        self.check()

    def release(self) -> None:
        """Let go of the connection."""
        with self._lock:
            handle, self._connection = self._connection, None
        if handle is not None:
            handle.close()

    def check(self) -> None:
        """Raise TimeoutError if the time is over."""
        if self.is_over or time.monotonic() >= self._end:
            self.is_over = True
            raise TimeoutError

    def cut_if_over(self) -> None:
        """Shut the connection down if the time is over, which wakes up whoever waits for it."""
        if time.monotonic() < self._end:
            return
        with self._lock:
            if self._connection is not None:
                self.is_over = True
                with contextlib.suppress(OSError):  # the server has closed it
                    self._connection.shutdown(socket.SHUT_RDWR)


class Watchdog:
    """One thread that cuts off all connections of a shard at their deadlines, while it is open as a context."""

    def __init__(self) -> None:
        self._running: set[Deadline] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="download-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Iterator[Deadline]:
        """Yield the deadline of an address."""
        deadline = Deadline(seconds)
        with self._lock:
            self._running.add(deadline)
        try:
            yield deadline
        finally:
            with self._lock:
                self._running.discard(deadline)

    def _run(self) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            with self._lock:
                running = list(self._running)
            for deadline in running:
                deadline.cut_if_over()
