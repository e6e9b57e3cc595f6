"""Cut off connections at their deadline, wherever they stand: a server may send a byte of its header now and then."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

_TICK_SECONDS = 0.05


class Timeout:
    """The time that one address has; it may open several connections, one after another."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._socket: socket.socket | None = None
        self.expired = False

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, at least a moment."""
        return max(self._deadline - time.monotonic(), _TICK_SECONDS)

    def policy(self, connection: socket.socket) -> None:
        """Name the connection to cut off."""
        self._socket = connection
        self.check()

    def check(self) -> None:
        """Raise TimeoutError if the time is over."""
        if self.expired or time.monotonic() >= self._deadline:
            self.expired = True
            raise TimeoutError

    def cut_if_over(self) -> None:
        """Shut the connection down if the time is over; whoever waits on it is woken."""
        if time.monotonic() >= self._deadline and self._socket is not None:
            self.expired = True
            with contextlib.suppress(OSError):  # closed already
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # not TLS's own, which a reader must not see


class Watchdog:
    """Watches over all connections of a shard from one thread, while it is open as a context."""

    def __init__(self) -> None:
        self._watches: set[Timeout] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._patrol, name="download-deadlines", daemon=True)

    def __enter__(self) -> "Watchdog":
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()

    @contextlib.contextmanager
    def watch(self, seconds: float) -> Iterator[Timeout]:
        """Give an address its time."""
        watch = Timeout(seconds)
        with self._lock:
            self._watches.add(watch)
        try:
            yield watch
        finally:
            with self._lock:
                self._watches.discard(watch)

    def _patrol(self) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            with self._lock:
                watches = list(self._watches)
            for watch in watches:
                watch.cut_if_over()
