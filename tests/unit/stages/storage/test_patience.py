"""What is waited for, for how long, and what is said meanwhile."""

import errno
import logging
import socket
import threading
import time

import pytest

from stages.contract.errors import InputFault
from stages.storage import patience
from stages.storage.patience import StorageAway, hurry, may_pass, patience_seconds, patiently, waiting_for

SECOND = 1 / 60  # minutes


class Reply(Exception):
    """An error as botocore makes it of a server's answer."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


def wrapped(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(), ConnectionResetError(), BrokenPipeError(), TimeoutError("timed out"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "Input/output error"),
        OSError(errno.EHOSTUNREACH, "No route to host"), Reply(503, "SlowDown"), Reply(500, "InternalError"),
        Reply(400, "RequestTimeout"), Reply(429, "TooMany"),
        wrapped(OSError(errno.EBUSY, ""), Reply(503, "SlowDown")),
        wrapped(FileNotFoundError("http://host/list.csv"), ConnectionRefusedError()),  # as fsspec's HTTP says it
    ],
    ids=repr,
)  # fmt: skip
def test_what_may_pass(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("a"), PermissionError("a"), OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"), OSError(errno.EDQUOT, "Disk quota exceeded"), ValueError("a"),
        Reply(403, "AccessDenied"), Reply(404, "NoSuchBucket"), Reply(400, "InvalidRequest"),
        wrapped(FileNotFoundError("a"), Reply(404, "NoSuchKey")), wrapped(OSError(errno.EIO, ""), Reply(400, "Odd")),
        InputFault("it redirects"), wrapped(OSError(errno.EIO, ""), InputFault("it redirects")),
    ],
    ids=repr,
)  # fmt: skip
def test_what_does_not_pass(error: Exception) -> None:
    assert not may_pass(error)


def failing(times: int, error: Exception):
    left = [error] * times

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    return call


def test_it_is_tried_again_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with waiting_for(60 * SECOND), caplog.at_level(logging.WARNING):
        assert patiently("s3://bucket/corgi", failing(2, ConnectionResetError("reset\x1b by peer"))) == "done"
    (line,) = caplog.messages
    assert line.startswith("s3://bucket/corgi: is away (ConnectionResetError: reset␛ by peer); waiting, until ")
    assert line.endswith(" at most (storage.patience: 1 minutes)")


def test_patience_ends_in_one_sentence() -> None:
    with (
        waiting_for(0.1 * SECOND),
        pytest.raises(
            StorageAway, match=r"^s3://b: was away for .* minutes \(ConnectionResetError: x\): expected it .*"
        ),
    ):
        patiently("s3://b", failing(10**6, ConnectionResetError("x")))


def test_nothing_is_waited_for_without_patience_or_where_it_cannot_pass() -> None:
    with pytest.raises(ConnectionResetError):
        patiently("s3://b", failing(1, ConnectionResetError("x")))
    with waiting_for(10), pytest.raises(FileNotFoundError):
        patiently("s3://b", failing(1, FileNotFoundError("x")))


def test_who_waits_already_is_hurried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 30.0)  # and half of it at least
    tries = threading.Semaphore(0)

    def fail() -> None:
        tries.release()
        raise ConnectionRefusedError

    caught: list[BaseException] = []

    def wait() -> None:
        try:
            patiently("s3://b", fail)
        except StorageAway as error:
            caught.append(error)

    with waiting_for(10):
        thread = threading.Thread(target=wait)
        thread.start()
        assert tries.acquire(timeout=60)
        begun = time.monotonic()
        hurry(0.1)
        thread.join(60)
        assert time.monotonic() - begun < 12
        assert patience_seconds() == pytest.approx(0.1)
    assert len(caught) == 1
    assert patience_seconds() == 0
