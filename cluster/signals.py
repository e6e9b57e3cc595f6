"""Signals that end a process, kept back while something is started or written that must not be left half done."""

import contextlib
import signal
import threading
from collections.abc import Iterator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOSS = signal.SIGUSR2
"""By which a thread interrupts the main one; SIGINT is ignored in what a shell starts in the background."""


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Keep them from this thread until the block is over, and for ever from all threads and processes started in it.

    A group of processes is signalled as a whole (by Slurm, systemd, ``timeout``, a terminal that is closed): what this
    process has started must not end before it does.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING, LOSS))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def keeping_handlers() -> Iterator[None]:
    """Put back, after the block, what this process does at each of the signals.

    Ray sets a handler of its own for SIGTERM, which leaves Python by SystemExit: what it receives is sent again, to the
    handler that was there before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    is_terminated = False
    try:
        yield
    except SystemExit as error:
        if error.code != signal.SIGTERM:
            raise
        is_terminated = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if is_terminated:
        signal.raise_signal(signal.SIGTERM)
