"""The child's side of :mod:`cluster.isolation`: limits, and the loop that serves items.

Limits of the process: memory beyond what its imports take (RLIMIT_DATA, on Linux), time of a processor for each item
(a timer whose signal ends the process, and RLIMIT_CPU as a second line), no core dumps, no files but small ones. The
time by the clock is kept by the parent. A child whose parent is gone reads the end of the connection and ends; one that
is busy then ends at its limit of processor time.
"""

import importlib
import json
import math
import os
import re
import resource
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.attention import Countdown

Handler = Callable[[bytes], tuple[dict[str, Any], bytes]]
"""From an item's bytes to what can be written as JSON, and bytes; it runs in the child."""

_FRAME = struct.Struct(">IQ")  # bytes of the head, bytes of the body
_LARGEST_PIECE = 1 << 24  # bytes received at a time, for which memory is taken before they are there
_SHORTEST_WAIT = 1e-3  # seconds
_LARGEST_FILE = 1 << 20  # what a child may write to a file, its standard error included


@dataclass(frozen=True)
class Limits:
    """What one item may take."""

    memory_bytes: int
    """Beyond what the process holds before the first item."""
    cpu_seconds: float
    wall_seconds: float
    start_seconds: float = 180.0
    """To import what the handler needs; on a busy machine it may take long."""


def send(connection: socket.socket, head: bytes, body: bytes) -> None:
    """Send a frame."""
    connection.sendall(_FRAME.pack(len(head), len(body)) + head)
    connection.sendall(body)


def receive(
    connection: socket.socket, *, countdown: Countdown | None = None, most_head: int, most_body: int
) -> tuple[bytes, bytes] | None:
    """Return head and body of the next frame; None: the other side has closed the connection.

    Raises:
        TimeoutError: the time is over.
        ValueError: the frame is too large.
    """
    opening = _receive_exactly(connection, _FRAME.size, countdown)
    if opening is None:
        return None
    head_size, body_size = _FRAME.unpack(opening)
    if head_size > most_head or body_size > most_body:
        raise ValueError(f"a frame of {head_size} and {body_size} bytes")
    head = _receive_exactly(connection, head_size, countdown)
    body = _receive_exactly(connection, body_size, countdown)
    return None if head is None or body is None else (head, body)


def _receive_exactly(connection: socket.socket, size: int, countdown: Countdown | None) -> bytes | None:
    pieces, missing = list[bytes](), size
    while missing:
        piece = _receive_some(connection, min(missing, _LARGEST_PIECE), countdown)
        if not piece:
            return None
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _receive_some(connection: socket.socket, most: int, countdown: Countdown | None) -> bytes:
    while countdown is not None:
        connection.settimeout(max(countdown.next_wait(), _SHORTEST_WAIT))
        try:
            return connection.recv(most)
        except TimeoutError:
            if not countdown.left():
                raise
    return connection.recv(most, socket.MSG_WAITALL)


def serve(items: Sequence[int]) -> None:
    """Serve items until the parent closes the connection; a frame with a head asks for another handler.

    The bytes of an item lie in one of the files ``items``, which costs less than to send them; its frame says the
    number of the item, in which file it lies, and of how many bytes. A reply has that number, too.
    """
    connection = _take_connection()
    _allow_little()
    limits, handle = None, None
    while (frame := receive(connection, most_head=1 << 20, most_body=64)) is not None:
        asked, placed = frame
        number, slot, size = map(int, placed.split())
        if asked:
            try:
                handle = _make(json.loads(asked))
            except Exception as error:  # noqa: BLE001  the parent raises it
                _reply(connection, number, {"failed": f"{type(error).__name__}: {error}"}, b"")
                return
            if limits is None:
                limits = Limits(**json.loads(asked)["limits"])
                _limit_memory(limits.memory_bytes)
            _reply(connection, number, {}, b"")
        elif handle is not None and limits is not None:
            _start_clock(limits.cpu_seconds)
            head, body = _handle(handle, items[slot], size)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _reply(connection, number, head, body)


def _make(asked: dict[str, Any]) -> Handler:
    handler: Handler = getattr(importlib.import_module(asked["module"]), asked["function"])(**asked["settings"])
    return handler


def _handle(handle: Handler, file: int, size: int) -> tuple[dict[str, Any], bytes]:
    try:
        return handle(_read_exactly(file, size))
    except MemoryError:
        return {"limit": "memory"}, b""
    except Exception as error:  # noqa: BLE001  the parent raises it
        return {"failed": f"{type(error).__name__}: {error}"}, b""


def _read_exactly(file: int, size: int) -> bytes:
    """Return the first bytes of a file, in one piece as nearly always."""
    content = os.pread(file, size, 0)
    while len(content) < size:
        content += os.pread(file, size - len(content), len(content))
    return content


def _reply(connection: socket.socket, number: int, head: dict[str, Any], body: bytes) -> None:
    send(connection, json.dumps([number, head]).encode(), body)


def _take_connection() -> socket.socket:
    """Return the connection, which came as standard input; what reads that now reads nothing."""
    connection = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return connection


def _allow_little() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ends = {signal.SIGPROF, signal.SIGXCPU, signal.SIGTERM}
    for number in ends:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)


def _limit_memory(num_bytes: int) -> None:
    """Allow so much beyond what is held now, where the system says how much that is."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            held = re.search(r"^VmData:\s+(\d+) kB", file.read(), re.MULTILINE)
    except FileNotFoundError:  # not Linux, whose other limits hold
        return
    if held is not None:
        limit = int(held[1]) * 1024 + num_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _start_clock(cpu_seconds: float) -> None:
    """End this process by a signal after so much time of a processor, whatever it is doing then."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(used + cpu_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
