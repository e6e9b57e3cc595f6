"""Notice what no parser of a file may do: connect elsewhere, start programs, unpickle, open what lies elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LOOPBACK = ("127.0.0.1", "::1", "localhost", "", None, b"127.0.0.1")
_STARTS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")
_ELSEWHERE = ("/etc/passwd", "/dev/zero", "/dev/stdin", "/dev/tty", "/proc/self/environ")


class Trespass(BaseException):
    """A parser did what it may not; no handler of exceptions holds it up."""


class _Sentry:
    is_on = False
    seen: str | None = None
    installed = False


def install() -> None:
    """Install the hook, which stays for the life of the process."""
    if not _Sentry.installed:
        sys.addaudithook(_hook)
        _Sentry.installed = True


@contextmanager
def on_duty() -> Iterator[None]:
    """Raise Trespass at the end where anything was noticed, even if the parser went on."""
    _Sentry.is_on, _Sentry.seen = True, None
    try:
        yield
    finally:
        _Sentry.is_on = False
    if _Sentry.seen is not None:
        raise Trespass(_Sentry.seen)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _Sentry.is_on and (what := _forbidden(event, args)) is not None:
        _Sentry.seen = what
        raise Trespass(what)


def _forbidden(event: str, args: tuple[Any, ...]) -> str | None:
    """Return what is forbidden of an event of the interpreter, if anything."""
    if event == "open":
        return f"opens {args[0]}" if args[0] in _ELSEWHERE else None
    if event == "pickle.find_class":
        return f"unpickles {args[0]}.{args[1]}"
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in _LOOPBACK:
        return f"connects to {args[1]}"
    if event == "socket.getaddrinfo" and args[0] not in _LOOPBACK:
        return f"looks {args[0]!r} up"
    if event in _STARTS:
        program = str(args[0])
        return None if Path(program).name.startswith("python") else f"starts {program}"
    return None
