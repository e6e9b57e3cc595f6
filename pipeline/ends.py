"""How a command is ended from outside: Ctrl-C, SIGTERM (Kubernetes, Slurm, `ray job stop`), a terminal that is closed.

All three raise KeyboardInterrupt in the main thread, which stops what runs and keeps what is finished; the exit code
says which it was, as a shell has it: 130, 143, 129.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from cluster.signals import signals_held_back
from pipeline.errors import Interrupted

if TYPE_CHECKING:
    from pipeline.executor import GraphRun

_KEPT = "what was finished is kept: run the same command again to go on"
_CLOSING_SECONDS = 5.0  # of the grace time, for what follows the checkpoint: ending Ray, the tracker, the record
HURRIED_SECONDS = 3.0
"""Whoever ended a run waits: so long at most for the tracking server, and for a store that is away."""
Result = TypeVar("Result")


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C, unless this process was started to ignore them (nohup).

    Raises:
        Interrupted: in place of KeyboardInterrupt, with its words, if any, and the exit code for the signal.
    """
    terminals = [number for number in (0, 1, 2) if os.isatty(number)]
    received = int(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if number in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
            # A thread of some library took what this one holds back: it waits here for the end of that.
            signal.pthread_kill(threading.get_ident(), number)
            return
        received = number  # not in the exception: Ray raises one of its own in place of it
        if number == signal.SIGHUP:
            _leave_terminals(terminals)
        raise KeyboardInterrupt

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    except KeyboardInterrupt as error:
        raise _interrupted(received, str(error) or _KEPT) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_terminals(numbers: list[int]) -> None:
    """Write to nowhere what would go to a terminal that is closed: each attempt would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in numbers:
        os.dup2(nowhere, number)
    os.close(nowhere)


def _interrupted(number: int, what: str) -> Interrupted:
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return Interrupted(f"{how}; {what}", exit_code=128 + number)


def in_time(seconds: float, work: Callable[[], Result]) -> Result:
    """Return what a function returns, which a thread carries out.

    Raises:
        TimeoutError: it takes longer, and is left to go on until it ends, or the process does.
    """
    outcome: Future[Result] = Future()

    def carry_out() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            outcome.set_exception(error)

    with signals_held_back():  # from the thread, so that they reach this one
        threading.Thread(target=carry_out, name="corgi-in-time", daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"not done within {seconds:g} s") from None


def wind_down(graph: "GraphRun", grace_seconds: float, report: Callable[[str], None]) -> None:
    """Stop what runs, after training has written a checkpoint; a second signal stops it at once."""
    seconds = max(grace_seconds - _CLOSING_SECONDS, grace_seconds / 2)
    if trains := graph.trains:
        report(
            f"ending: {', '.join(trains)} may write a checkpoint of the step in hand, for {seconds:g} s at most "
            "(cluster.grace_seconds); Ctrl-C or SIGTERM again ends the run at once"
        )
    graph.wind_down(seconds)
