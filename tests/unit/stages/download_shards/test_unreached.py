"""Which faults of real sockets are those of a host that is away."""

import contextlib
import gc
import math
import socket
import threading
import urllib.parse
import warnings
from collections.abc import Iterator

import pytest

from stages.contract.errors import FailureCause
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.http.fetch import Fetcher, FetchFault
from stages.download_shards.http.ssrf_filter import AddressPolicy
from stages.download_shards.http.watchdog import Watchdog
from tests.ports import free_port


def fault_of(url: str, timeout: float = 30.0) -> FetchFault:
    limits = DownloadShardsConfig(source={"kind": "scenes", "num_images": 1}, timeout=timeout, max_seconds=60.0)
    with Watchdog() as watchdog, pytest.raises(FetchFault) as caught:
        Fetcher(limits, AddressPolicy(["127.0.0.1"]), watchdog)(url)
    return caught.value


@contextlib.contextmanager
def answering(content: bytes) -> Iterator[str]:
    """Take one connection, say this and keep the connection open."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(content)
                done.wait(100)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a"
        done.set()
        thread.join(5)


def test_a_closed_port_and_an_unknown_name_are_away() -> None:
    closed, unknown = fault_of(f"http://127.0.0.1:{free_port()}/a"), fault_of("http://away.invalid/a")
    assert (closed.cause, closed.transient, closed.is_unreached) == (FailureCause.CONNECTION_REFUSED, True, True)
    assert (unknown.cause, unknown.is_unreached) == (FailureCause.UNKNOWN_HOST, True)


def test_a_host_that_takes_no_connection_in_time_is_away() -> None:
    with socket.socket() as full:  # a backlog of none, which one connection fills
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with contextlib.ExitStack() as waiting:
            for _ in range(2):
                one = waiting.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(full.getsockname())
            fault = fault_of(f"http://127.0.0.1:{full.getsockname()[1]}/a", timeout=0.5)
    assert (fault.cause, fault.is_unreached) == (FailureCause.TIMEOUT, True)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", FailureCause.TIMEOUT),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", FailureCause.HTTP),
        (b"no HTTP\r\n\r\n", FailureCause.CONNECTION_LOST),
    ],
)
def test_a_host_that_takes_the_connection_is_there(content: bytes, cause: FailureCause) -> None:
    with answering(content) as url:
        fault = fault_of(url, timeout=30.0 if content else 0.5)
    assert (fault.cause, fault.is_unreached) == (cause, False)


def test_a_host_is_there_whose_redirect_leads_to_one_that_is_away() -> None:
    moved = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{free_port()}/b\r\nContent-Length: 0\r\n\r\n"
    with answering(moved.encode()) as url:
        fault = fault_of(url)
    assert (fault.cause, fault.is_unreached) == (FailureCause.CONNECTION_REFUSED, False)


@pytest.mark.parametrize("where", ["while it connects", "once it is connected"])
def test_a_socket_that_cannot_be_set_up_is_closed(where: str) -> None:
    limits = DownloadShardsConfig(source={"kind": "scenes", "num_images": 1})
    policy = AddressPolicy(["127.0.0.1"])
    with warnings.catch_warnings(record=True) as said, answering(b"") as url, Watchdog() as watchdog:
        warnings.simplefilter("always")
        port = urllib.parse.urlsplit(url).port or 0
        if where == "while it connects":
            with pytest.raises(OverflowError):
                policy.connect("127.0.0.1", port, math.inf)
            socket.create_connection(("127.0.0.1", port)).close()
        else:
            endless = limits.model_copy(update={"timeout": math.inf})  # which no config file can ask for
            with pytest.raises(OverflowError):
                Fetcher(endless, policy, watchdog)(url)
        gc.collect()
    assert [str(one.message) for one in said if issubclass(one.category, ResourceWarning)] == []
