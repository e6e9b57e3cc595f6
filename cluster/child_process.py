"""The process behind :mod:`cluster.isolation`: started, given items, and ended or kept for the next to ask for it."""

import atexit
import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO, Any

import psutil

from cluster.attention import Countdown
from cluster.isolated_child import receive, send

MOST_OUTSTANDING = 4
"""Items that the child has at a time, so that it need not wait for the next one while its reply is being read."""

_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from cluster.isolated_child import serve; "
    "serve(json.loads(sys.argv[2]))"
)
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "TZ")
_PASSED_ON_FROM = ("LC_", "PYTHON", "COVERAGE")  # what begins so; credentials in the environment stay here
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ALLOCATOR = {  # glibc's: an image's megabytes are kept for the next one, and need not be mapped anew
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
_MOST_HEAD = 1 << 20
_LARGE = 8 << 20  # bytes of an item, for which no memory is kept
_NOISE = 64 * 1024  # bytes that a child may have written to its standard error before they are thrown away
_PATIENCE = 5.0  # seconds for a child to end after it was asked to


@dataclass
class ChildProcess:
    """A process that serves items, and how to reach it."""

    process: "subprocess.Popen[bytes]"
    connection: socket.socket
    stderr: IO[bytes]
    items: tuple[IO[bytes], ...]
    """The files through which it gets the bytes of items, in turn."""
    num_sent: int = 0
    num_outstanding: int = 0
    """Replies that are still to come."""
    is_spent: bool = False
    """Whether nobody else may use it."""

    def send(self, content: bytes, *, opening: bytes = b"", seconds: float) -> None:
        """Hand it an item, or settings to begin with."""
        self.connection.settimeout(seconds)
        slot = self.num_sent % MOST_OUTSTANDING
        self.num_sent, self.num_outstanding = self.num_sent + 1, self.num_outstanding + 1
        _put(self.items[slot], content)
        send(self.connection, opening, f"{self.num_sent} {slot} {len(content)}".encode())

    def receive(self, *, countdown: Countdown, most_bytes: int) -> tuple[dict[str, Any], bytes] | None:
        """Return the reply to the oldest item; None: it has closed the connection.

        Raises:
            TimeoutError: the time is over.
            OSError: the connection broke.
            ValueError: what came is no reply, or one to another item.
        """
        found = receive(self.connection, countdown=countdown, most_head=_MOST_HEAD, most_body=most_bytes)
        if found is None:
            return None
        _drop_large(self.items[(self.num_sent - self.num_outstanding) % MOST_OUTSTANDING])
        self.num_outstanding -= 1
        return _parse_head(found[0], self.num_sent - self.num_outstanding), found[1]

    def has_ended(self) -> bool:
        """Return whether the process is no more."""
        return self.process.poll() is not None

    def is_stopped(self) -> bool:
        """Return whether somebody has stopped the process (SIGSTOP), so that its time says nothing of its item."""
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)
        return False

    def drop_noise(self) -> None:
        """Throw away what was written to standard error, where it is much."""
        if os.fstat(self.stderr.fileno()).st_size > _NOISE:
            os.ftruncate(self.stderr.fileno(), 0)

    def why_it_ended(self) -> tuple[int | None, str]:
        """Return its exit status, once it has ended, and the last line of its standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE)
        size = os.fstat(self.stderr.fileno()).st_size
        tail = os.pread(self.stderr.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return self.process.poll(), one_line(lines[-1]) if lines else ""

    def end(self) -> None:
        """End the process, by force where it is busy or does not end by itself."""
        if self.num_outstanding:
            self.process.kill()
        self.connection.close()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for file in (self.stderr, *self.items):
            file.close()


_idle: dict[bytes, ChildProcess] = {}
"""Of each factory and limits a child that nobody uses, so that the next to ask need not wait for its imports."""


def take_child(key: bytes) -> ChildProcess:
    """Return a child of that kind: one that nobody uses, or a new one."""
    child = _idle.pop(key, None)
    if child is not None and child.has_ended():
        child.end()
        child = None
    return child or _spawn()


def release_child(key: bytes, child: ChildProcess) -> None:
    """Keep a child for the next to ask for its like, or end it."""
    is_kept = not (child.is_spent or child.num_outstanding or child.has_ended())
    if not is_kept or _idle.setdefault(key, child) is not child:
        child.end()


@atexit.register
def _end_idle() -> None:
    while _idle:
        _idle.popitem()[1].end()


def _spawn() -> ChildProcess:
    ours, theirs = socket.socketpair()
    stderr = tempfile.TemporaryFile("w+b")  # noqa: SIM115  closed with the child
    fcntl.fcntl(stderr, fcntl.F_SETFL, os.O_APPEND)  # so that what follows on throwing away begins at its beginning
    items = tuple(_file_in_memory() for _ in range(MOST_OUTSTANDING))
    numbers = [file.fileno() for file in items]
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _BOOTSTRAP,
                json.dumps([path or os.getcwd() for path in sys.path]),
                json.dumps(numbers),
            ],
            stdin=theirs.fileno(),
            pass_fds=numbers,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the parent, which then closes the connection
        )
    return ChildProcess(process, ours, stderr, items)


def _put(file: IO[bytes], content: bytes) -> None:
    """Write the bytes of an item where the child reads them."""
    written = os.pwrite(file.fileno(), content, 0)
    while written < len(content):
        written += os.pwrite(file.fileno(), content[written:], written)


def _drop_large(file: IO[bytes]) -> None:
    """Give the memory back that a large item took."""
    if os.fstat(file.fileno()).st_size > _LARGE:
        os.ftruncate(file.fileno(), 0)


def _file_in_memory() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("items"), "r+b")
    return tempfile.TemporaryFile("r+b")


def _environment() -> dict[str, str]:
    """Return what of the environment the child gets: no credentials, and one thread."""
    kept = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_FROM)}
    return kept | dict.fromkeys(_ONE_THREAD, "1") | _ALLOCATOR | {"NO_ALBUMENTATIONS_UPDATE": "1"}


def _parse_head(head: bytes, number: int) -> dict[str, Any]:
    match json.loads(head):
        case [replied, dict(found)] if replied == number:
            return found
        case _:
            raise ValueError("the head of a reply has the number of its item, and a mapping")


def one_line(text: Any) -> str:
    """Return what a child wrote as it may be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:300])
