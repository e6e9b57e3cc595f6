"""Work on one item after another in a child process with limits, so that the worst item costs itself alone.

For readers in C that strangers' bytes may crash, stall or fill the memory. The child is started at the first item and
serves many; one that dies or exceeds a limit is started again for the next item. The limits and what the child is
allowed are set in :mod:`cluster.isolated_child`. The parent sends the name of a factory, its settings and bytes; what
comes back is JSON and bytes, so that a child taken over by an item has no hold on the parent.
"""

import atexit
import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from cluster.errors import IsolationFailed, ItemLimit
from cluster.isolated_child import Handler, Limits, receive, send

_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from cluster.isolated_child import serve; "
    "serve(int(sys.argv[2]))"
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
_PAUSES = (0.0, 0.5, 2.0)  # seconds before an item is tried again whose child was killed
_PATIENCE = 5.0  # seconds for a child to end after it was asked to


@dataclass
class _Child:
    process: "subprocess.Popen[bytes]"
    connection: socket.socket
    stderr: IO[bytes]
    items: IO[bytes]
    """The file through which the child gets the bytes of an item."""
    is_busy: bool = False
    """Whether a reply is outstanding."""

    def last_line(self) -> str:
        """Return the end of what the child wrote to its standard error."""
        size = os.fstat(self.stderr.fileno()).st_size
        tail = os.pread(self.stderr.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return _one_line(lines[-1]) if lines else ""

    def drop_noise(self) -> None:
        """Throw away what was written to standard error, where it is much."""
        if os.fstat(self.stderr.fileno()).st_size > _NOISE:
            os.ftruncate(self.stderr.fileno(), 0)

    def put(self, content: bytes) -> None:
        """Write the bytes of an item where the child reads them."""
        written = os.pwrite(self.items.fileno(), content, 0)
        while written < len(content):
            written += os.pwrite(self.items.fileno(), content[written:], written)

    def drop_item(self, size: int) -> None:
        """Give the memory back that a large item took."""
        if size > _LARGE:
            os.ftruncate(self.items.fileno(), 0)

    def end(self) -> int:
        """End the process, by force where it does not end by itself, and return its exit status."""
        self.connection.close()
        try:
            status = self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.stderr.close()
        self.items.close()
        return status


_idle: dict[bytes, _Child] = {}
"""Of each factory and limits a child that nobody uses, so that the next to ask need not wait for its imports."""


def _release(key: bytes, child: _Child) -> None:
    """Keep a child for the next to ask for its like, or end it."""
    if child.is_busy or child.process.poll() is not None or _idle.setdefault(key, child) is not child:
        child.end()


@atexit.register
def _end_idle() -> None:
    while _idle:
        _idle.popitem()[1].end()


class _Killed(ItemLimit):
    """Somebody has killed the child: the system, which is short of memory, or an administrator."""


class Isolated:
    """Calls a handler in a child process, where ``make`` makes it: a function of a module, given settings as JSON."""

    def __init__(self, make: Callable[..., Handler], limits: Limits, settings: Mapping[str, Any] | None = None) -> None:
        named = {"module": make.__module__, "function": make.__qualname__, "limits": dataclasses.asdict(limits)}
        self._key = json.dumps(named).encode()
        self._opening = json.dumps(named | {"settings": dict(settings or {})}).encode()
        self._limits = limits
        self._child: _Child | None = None
        self._finalizer: Callable[[], Any] = lambda: None
        self._lock = threading.Lock()

    def __call__(self, content: bytes) -> tuple[dict[str, Any], bytes]:
        """Return what the handler returns for an item; one whose child was killed is tried again, a few times.

        Raises:
            ItemLimit: the item exceeded a limit or ended its process.
            IsolationFailed: the child cannot be started, or its handler raised what it should have handled.
        """
        with self._lock:
            head, body = self._ask_again(content)
        if "failed" in head:
            raise IsolationFailed(f"a handler in a child process failed: {_one_line(head['failed'])}")
        if "limit" in head:
            raise ItemLimit(f"needs more than {self._limits.memory_bytes / 1e6:,.0f} MB of memory")
        return head, body

    def _ask_again(self, content: bytes) -> tuple[dict[str, Any], bytes]:
        for seconds in _PAUSES:
            try:
                return self._ask(content)
            except _Killed:  # no fault of the item's, which has limits of its own
                time.sleep(seconds)
        return self._ask(content)

    def _ask(self, content: bytes) -> tuple[dict[str, Any], bytes]:
        if self._child is not None and self._child.process.poll() is not None:
            self.close()  # it died between two items, which none of them has caused
        child = self._child or self._start()
        child.drop_noise()
        return self._exchange(child, content, self._limits.wall_seconds)

    def close(self) -> None:
        """End the child, if there is one; the next item starts another."""
        if self._child is not None:
            self._child.is_busy = True  # so that it is not kept
            self._child = None
            self._finalizer()

    def _start(self) -> _Child:
        child = _idle.pop(self._key, None)
        if child is not None and child.process.poll() is not None:  # it died meanwhile
            child.end()
            child = None
        child = self._child = child or _spawn()
        self._finalizer = weakref.finalize(self, _release, self._key, child)
        try:
            head, _ = self._exchange(child, b"", self._limits.start_seconds, head=self._opening)
        except _Killed:
            raise
        except ItemLimit as error:
            raise IsolationFailed(f"a child process for isolated work does not start: {error}") from error
        if "failed" in head:
            self.close()
            raise IsolationFailed(f"a child process for isolated work does not start: {_one_line(head['failed'])}")
        return child

    def _exchange(
        self, child: _Child, content: bytes, seconds: float, *, head: bytes = b""
    ) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + seconds
        child.is_busy = True
        try:
            child.connection.settimeout(seconds)
            child.put(content)
            send(child.connection, head, str(len(content)).encode())
            most = self._limits.memory_bytes
            found = receive(child.connection, deadline=deadline, most_head=_MOST_HEAD, most_body=most)
            if found is not None:
                child.drop_item(len(content))
                child.is_busy = False
                return _parse_head(found[0]), found[1]
        except TimeoutError:
            child.process.kill()
            self.close()
            raise ItemLimit(f"takes more than {seconds:g} s") from None
        except OSError:  # the connection broke
            pass
        except (ValueError, RecursionError):  # it holds no reply
            child.process.kill()
            raise ItemLimit(self._why_it_ended(child)) from None
        except BaseException:  # such as Ctrl-C: the next item must not get this one's reply
            child.process.kill()
            self.close()
            raise
        why = self._why_it_ended(child)
        raise _Killed(why) if child.process.poll() == -signal.SIGKILL else ItemLimit(why)

    def _why_it_ended(self, child: _Child) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(_PATIENCE)
        status, last_line = child.process.poll(), child.last_line()
        self.close()
        if status in (-signal.SIGPROF, -signal.SIGXCPU):
            return f"takes more than {self._limits.cpu_seconds:g} s of a processor"
        if status is not None and status < 0:
            return f"ended the process that read it by {signal.Signals(-status).name}"
        return f"ended the process that read it (exit status {status}{': ' if last_line else ''}{last_line})"


def _spawn() -> _Child:
    ours, theirs = socket.socketpair()
    stderr = tempfile.TemporaryFile("w+b")  # noqa: SIM115  closed with the child
    fcntl.fcntl(stderr, fcntl.F_SETFL, os.O_APPEND)  # so that what follows on throwing away begins at its beginning
    items = _file_in_memory()
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _BOOTSTRAP,
                json.dumps([path or os.getcwd() for path in sys.path]),
                str(items.fileno()),
            ],
            stdin=theirs.fileno(),
            pass_fds=(items.fileno(),),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the parent, which then closes the connection
        )
    return _Child(process, ours, stderr, items)


def _file_in_memory() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("items"), "r+b")
    return tempfile.TemporaryFile("r+b")


def _environment() -> dict[str, str]:
    """Return what of the environment the child gets: no credentials, and one thread."""
    kept = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_FROM)}
    return kept | dict.fromkeys(_ONE_THREAD, "1") | _ALLOCATOR | {"NO_ALBUMENTATIONS_UPDATE": "1"}


def _parse_head(head: bytes) -> dict[str, Any]:
    found = json.loads(head)
    if not isinstance(found, dict):
        raise ValueError("the head of a reply is a mapping")
    return found


def _one_line(text: Any) -> str:
    """Return what a child wrote as it may be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:300])
