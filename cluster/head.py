"""Watch over what a connection to Ray cannot do without; its loss interrupts the main thread, as Ctrl-C does.

Calls of Ray wait for ever without the processes of its head, or end this process after a minute. So whoever takes care
of a KeyboardInterrupt by calls of Ray asks :func:`check_head` first; and as some calls cannot be interrupted, what is
to be done before the end is given to :func:`last_words` beside.
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
_EXIT_CODE = 3  # as of a stage that failed
_checks: list[Callable[[], None]] = []
_last_words: list[Callable[[HeadLost], None]] = []


def check_head() -> None:
    """Raise where this process's Ray has lost its head.

    Raises:
        HeadLost: it is gone.
    """
    for check in _checks:
        check()


@contextlib.contextmanager
def last_words(report: Callable[[HeadLost], None]) -> Iterator[None]:
    """Have this done, in another thread, where the main thread waits in the block for a head that is gone."""
    _last_words.append(report)
    try:
        yield
    finally:
        _last_words.remove(report)


@contextlib.contextmanager
def head_watched(check: Callable[[], None], seconds: float, patience: float | None = None) -> Iterator[None]:
    """Interrupt the main thread, if it is in the block, once ``check`` raises HeadLost; it is called so often.

    Where the main thread has not left the block ``patience`` seconds after, the process ends, with exit code 3.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_over = threading.Event()

    def poll(main: int = threading.get_ident()) -> None:
        while not is_over.wait(seconds):
            try:
                check()
            except HeadLost as error:
                signal.pthread_kill(main, LOSS)
                if patience is not None and not is_over.wait(patience):
                    _end_without_main_thread(error)
                return

    thread = threading.Thread(target=poll, daemon=True)
    before = signal.signal(LOSS, _interrupt)
    _checks.append(check)
    with signals_held_back():  # from the thread, so that they reach this one
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        _checks.remove(check)
        signal.signal(LOSS, before)


def _end_without_main_thread(error: HeadLost) -> NoReturn:
    try:
        for report in reversed(_last_words):  # as blocks end: the inner one first
            report(error)
    finally:
        os._exit(_EXIT_CODE)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class Contact:
    """Whether the head of a cluster elsewhere can be reached; one that could not be at first never counts as lost.

    The address is that of its global control store, which not every network lets pass where Ray itself is used.
    """

    def __init__(self, address: str, seconds: float | None = None) -> None:
        """Count it as lost after so many seconds; None: half of those after which Ray ends this process."""
        host, _, port = address.rpartition(":")
        self._address = host.strip("[]"), int(port)
        given = float(os.environ.get(_RECONNECTING, _RECONNECTING_SECONDS))
        self._seconds = given / 2 if seconds is None else seconds
        self._reached: float | None = None
        self._lost: HeadLost | None = None
        self.check()

    def watched(self) -> contextlib.AbstractContextManager[None]:
        """Watch over it for the length of the block."""
        return head_watched(self.check, min(_PROBE_SECONDS, self._seconds / 4), patience=self._seconds / 2)

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
            if self._reached is not None and time.monotonic() - self._reached > self._seconds:
                self._lost = HeadLost(
                    f"cluster: the head of the Ray cluster at {self._address[0]}:{self._address[1]} could not be "
                    f"reached for {self._seconds:.0f} s ({error}): look at its machine, start the cluster again, and "
                    "run the same command again; finished work is kept"
                )
                raise self._lost from error
        else:
            self._reached = time.monotonic()
