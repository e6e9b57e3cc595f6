"""Wait for a store or source that is away: calls are repeated for ``storage.patience`` minutes before one fails.

What may pass by itself is waited for: no connection, timeouts, names that cannot be resolved, answers of a server in
trouble (5xx, "slow down"), a network file system that is away. What cannot (no such file or bucket, no permission, a
full disk) fails at once.
"""

import contextlib
import errno
import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from stages.contract.bounds import LONGEST_WAIT
from stages.contract.environment import number_in_environment
from stages.contract.errors import StageError
from stages.contract.texts import one_line

PATIENCE = "CORGI_PATIENCE"  # environment variable that carries storage.patience, in minutes, to a run's workers
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds
_REPORTED_EVERY = 60.0  # seconds between two lines about the same wait
_SHOWN = 200
_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class StorageAway(StageError):
    """A store or source was away for longer than ``storage.patience``."""


_PASSING_NUMBERS = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH"),
        *("ENETDOWN", "ENETRESET", "EHOSTDOWN", "ENOTCONN", "ESTALE", "EIO", "EREMOTEIO", "EBUSY", "EAGAIN"),
    )
    if hasattr(errno, name)
)
#: By the names of error classes, so that no file system's library is imported.
_PASSING_NAMES = frozenset(
    (
        *("TimeoutError", "ConnectionError", "gaierror", "FSTimeoutError"),
        *("HTTPClientError", "IncompleteReadError", "ResponseParserError", "ResponseStreamingError"),  # botocore
        *("IncompleteRead", "ProtocolError"),  # http.client, urllib3
        *("ClientConnectionError", "ClientPayloadError", "ServerTimeoutError"),  # aiohttp
    )
)
_LASTING_NAMES = frozenset(("SSLError", "ClientSSLError", "ClientConnectorCertificateError"))
_PASSING_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_PASSING_CODES = frozenset(("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "Throttling"))


def may_pass(error: BaseException) -> bool:
    """Return whether an error of a file system may be gone when the same is tried again later."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:  # libraries wrap an answer into an error of their own, without it
        chain.append(link)
        link = link.__cause__
    if any(isinstance(one, StageError) for one in chain):
        return False
    for status, code in filter(None, map(_reply, chain)):
        return status in _PASSING_STATUS or code in _PASSING_CODES
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    if names & _LASTING_NAMES or isinstance(error, PermissionError):
        return False
    return bool(names & _PASSING_NAMES) or any(
        isinstance(one, OSError) and one.errno in _PASSING_NUMBERS for one in chain
    )


def _reply(error: BaseException) -> tuple[int, str] | None:
    """Return HTTP status and S3's code of a server's answer, where the error holds one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return int(status), str(response.get("Error", {}).get("Code", ""))
    status = getattr(error, "status", None)  # aiohttp's
    return (status, "") if isinstance(status, int) and status else None


_own_patience: float | None = None
_changed = threading.Condition()  # how long to wait


@contextlib.contextmanager
def waiting_for(minutes: float) -> Iterator[None]:
    """Wait for what is away for so long, in all threads of this process, while the context is open.

    A driver does so from the moment when all is checked: a mistake in an address is to be reported at once.
    """
    global _own_patience  # noqa: PLW0603  it holds for all threads of the process
    before, _own_patience = _own_patience, minutes
    try:
        yield
    finally:
        _own_patience = before


def hurry(seconds: float) -> None:
    """Wait for no longer than this until :func:`waiting_for` is over, also where a thread waits already."""
    global _own_patience  # noqa: PLW0603  it holds for all threads of the process
    with _changed:
        _own_patience = seconds / 60
        _changed.notify_all()


def patience_seconds() -> float:
    """Return for how long this process waits for what is away; InputFault: the environment holds no such time."""
    if _own_patience is not None:
        return 60 * _own_patience
    return 60 * (number_in_environment(PATIENCE, most=LONGEST_WAIT / 60) or 0)


def patiently(what: str, function: Callable[[], Result]) -> Result:
    """Call, again and again as long as the error may pass and patience lasts; ``what`` is said while waiting.

    Raises:
        StorageAway: it did not pass in time.
    """
    began, reported, pause = time.monotonic(), float("-inf"), _FIRST_PAUSE
    while True:
        try:
            return function()
        except Exception as error:
            patience = patience_seconds()
            if not patience or not may_pass(error):
                raise
            now = time.monotonic()
            left = began + patience - now
            if left <= 0:
                raise _away(what, error, patience) from error
            if now - reported >= _REPORTED_EVERY:
                reported = now
                until = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
                _log.warning(
                    "%s: is away (%s); waiting, until %s at most (storage.patience: %g minutes)",
                    what, _describe(error), until, patience / 60,
                )  # fmt: skip
        shortened = min(left, pause * random.uniform(0.5, 1.0))  # so that not all processes ask at once
        with _changed:
            _changed.wait_for(functools.partial(_is_less_than, patience), shortened)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _is_less_than(patience: float) -> bool:
    return patience_seconds() < patience


def _describe(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {error}", _SHOWN)


def _away(what: str, error: BaseException, patience: float) -> StorageAway:
    return StorageAway(
        f"{what}: was away for {patience / 60:g} minutes ({_describe(error)}): expected it back within "
        "storage.patience: bring it back, or correct its address, and run again; what was finished is kept"
    )


class PatientFileSystem:
    """A file system whose calls wait for what is away; files that it opens do so as they are read."""

    def __init__(self, wrapped: Any, name: str) -> None:
        self.wrapped, self._name = wrapped, name

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.wrapped, name)
        if name.startswith("_") or not callable(found):
            return found

        @functools.wraps(found)
        def call(*arguments: Any, **options: Any) -> Any:
            return patiently(self._name, lambda: found(*arguments, **options))

        return call

    def exists(self, path: str) -> bool:
        """Return whether there is something; fsspec's own takes a file system that is away for one without files."""
        try:
            self.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """Open a file; what is read of a remote one is fetched again where the connection is lost."""
        file = patiently(self._name, lambda: self.wrapped.open(path, mode, **options))
        if (cache := getattr(file, "cache", None)) is not None and hasattr(cache, "fetcher"):
            fetch = cache.fetcher
            cache.fetcher = lambda *span: patiently(self._name, lambda: fetch(*span))
        return file
