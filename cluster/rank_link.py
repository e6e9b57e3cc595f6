"""What a training process and the process that started its group have to say to each other beside the work.

The process gives signs of life and says how many steps it has taken; it learns that it is to end early, or that it
stands still and is to show its stack and go. A thread does that, so that the steps wait for nothing.
"""

import contextlib
import copy
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cluster.losses import memory_kills

if TYPE_CHECKING:
    from cluster.channel import Sender

Part = TypeVar("Part")
LINK_SECONDS = 1.0  # between two signs of life
END, REPLACE = "end", "replace"  # notices on the group's board
_MOST_STACK = 60_000  # characters
_end = threading.Event()
_steps = 0


@dataclass(frozen=True)
class Sign:
    """A sign of life of one rank."""

    rank: int
    node: str
    pid: int
    steps: int
    memory_kills: int
    machine: str


def end_is_requested() -> bool:
    """Return whether this process is to end early, keeping what it has done."""
    return _end.is_set()


def request_end() -> None:
    """Ask this process to end early."""
    _end.set()


def note_step() -> None:
    """Count a step, as a sign that this process gets on."""
    global _steps  # noqa: PLW0603  a property of the process
    _steps += 1


def getting_on(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the parts of what is read before the first step, and count each as one: to read very many takes hours."""
    for part in parts:
        note_step()
        yield part


def steps_taken() -> int:
    """Return how many steps, and parts of what is read before them, this process has come through."""
    return _steps


def forget_requests() -> None:
    """Begin anew, in a process that has trained before."""
    global _steps  # noqa: PLW0603
    _steps = 0
    _end.clear()


@contextlib.contextmanager
def linked(send: "Sender", rank: int, node: str, machine: str) -> Iterator[None]:
    """Keep in touch for the length of the block."""
    forget_requests()
    over = threading.Event()
    own = (copy.copy(send), rank, node, machine)  # a sender is for one thread
    thread = threading.Thread(target=_keep_in_touch, args=(*own, over), name="corgi-link", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _keep_in_touch(send: "Sender", rank: int, node: str, machine: str, over: threading.Event) -> None:
    while not over.wait(LINK_SECONDS):
        with contextlib.suppress(Exception):  # the mailbox is away: the next sign may arrive
            _exchange(send, rank, node, machine)


def _exchange(send: "Sender", rank: int, node: str, machine: str) -> None:
    send(("sign", Sign(rank, node, os.getpid(), steps_taken(), memory_kills(), machine)))
    notices = send.poll_all((END, REPLACE))
    if notices[END]:
        _end.set()
    if notices[REPLACE]:
        try:
            send(("stack", (rank, process_stack())))
            send.flush()
        finally:
            os._exit(1)  # the group is started again without it; what holds it up may not be interrupted


def process_stack() -> str:
    """Return what every thread of this process is doing."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    ]
    return "\n".join(parts)[-_MOST_STACK:]
