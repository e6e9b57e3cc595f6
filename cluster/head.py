"""Watch over what a connection to Ray cannot do without; its loss interrupts the main thread, as Ctrl-C does.

Calls of Ray wait for ever without the processes of its head, or end this process after a minute: so that the run's
record can be closed, whoever takes care of a KeyboardInterrupt by calls of Ray asks :func:`check_head` first.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from cluster.errors import HeadLost
from cluster.signals import LOSS, signals_held_back

_PROBE_SECONDS = 5.0  # between two contacts, and for one of them
_RECONNECTING = "RAY_gcs_rpc_server_reconnect_timeout_s"
_RECONNECTING_SECONDS = 60.0  # Ray's own default, after which it ends this process
_watches: list[Callable[[], None]] = []


def check_head() -> None:
    """Raise where this process's Ray has lost its head.

    Raises:
        HeadLost: it is gone.
    """
    for check in _watches:
        check()


@contextlib.contextmanager
def head_watched(check: Callable[[], None], seconds: float) -> Iterator[None]:
    """Interrupt the main thread, if it is in the block, once ``check`` raises HeadLost; it is called so often."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_over = threading.Event()

    def poll(main: int = threading.get_ident()) -> None:
        while not is_over.wait(seconds):
            try:
                check()
            except HeadLost:
                signal.pthread_kill(main, LOSS)
                return

    thread = threading.Thread(target=poll, daemon=True)
    before = signal.signal(LOSS, _interrupt)
    _watches.append(check)
    with signals_held_back():  # from the thread, so that they reach this one
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        _watches.remove(check)
        signal.signal(LOSS, before)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class Contact:
    """Whether the head of a cluster elsewhere can be reached: the address of its global control store."""

    def __init__(self, address: str, seconds: float | None = None) -> None:
        """Count it as lost after so many seconds; None: two thirds of those after which Ray ends this process."""
        host, _, port = address.rpartition(":")
        self._address = host.strip("[]"), int(port)
        given = float(os.environ.get(_RECONNECTING, _RECONNECTING_SECONDS))
        self._seconds = 2 / 3 * given if seconds is None else seconds
        self._reached = time.monotonic()
        self._lost: HeadLost | None = None

    def watch(self) -> contextlib.AbstractContextManager[None]:
        """Watch over it for the length of the block."""
        return head_watched(self.check, min(_PROBE_SECONDS, self._seconds / 4))

    def check(self) -> None:
        """Try to reach it.

        Raises:
            HeadLost: it could not be reached for too long.
        """
        if self._lost is not None:
            raise self._lost
        try:
            socket.create_connection(self._address, timeout=min(_PROBE_SECONDS, self._seconds / 4)).close()
        except OSError as error:
            if time.monotonic() - self._reached > self._seconds:
                self._lost = HeadLost(
                    f"cluster: the head of the Ray cluster at {self._address[0]}:{self._address[1]} could not be "
                    f"reached for {self._seconds:.0f} s ({error}): look at its machine, start the cluster again, and "
                    "run the same command again; finished work is kept"
                )
                raise self._lost from error
        else:
            self._reached = time.monotonic()
