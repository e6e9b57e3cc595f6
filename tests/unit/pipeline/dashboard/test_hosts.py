"""Which Host and Origin the dashboard serves: clients leave out the default port of the scheme that they speak."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.dashboard.app import Apps, Gate
from pipeline.dashboard.server import _hosts


async def _own(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def status(listening: str, server: tuple[str, int], headers: Mapping[str, str]) -> int:
    """Return the status of a request for the dashboard's page, of a server that listens there."""
    gate = Gate(Apps(_own, _own, None), lambda *_: None, token="key", hosts=_hosts(listening, server[1]))
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/key/runs", "headers": pairs, "server": server}
    statuses: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(gate(scope, receive, send))
    return statuses[0]


@pytest.mark.parametrize(
    ("listening", "server", "host", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", 80), "127.0.0.1", 204),
        ("127.0.0.1", ("127.0.0.1", 80), "localhost", 204),
        ("127.0.0.1", ("127.0.0.1", 80), "localhost:80", 204),
        ("::1", ("::1", 80), "[::1]", 204),
        ("0.0.0.0", ("10.0.0.3", 80), "10.0.0.3", 204),
        ("127.0.0.1", ("127.0.0.1", 443), "localhost", 204),
        ("127.0.0.1", ("127.0.0.1", 443), "localhost:443", 204),
        ("127.0.0.1", ("127.0.0.1", 5000), "localhost:5000", 204),
        ("127.0.0.1", ("127.0.0.1", 5000), "localhost", 403),
        ("127.0.0.1", ("127.0.0.1", 80), "localhost:443", 403),
        ("127.0.0.1", ("127.0.0.1", 80), "evil.com", 403),
        ("127.0.0.1", ("127.0.0.1", 80), "evil.com:80", 403),
        ("127.0.0.1", ("127.0.0.1", 443), "localhost.evil.com", 403),
    ],
)
def test_a_host_without_port_is_served_at_the_default_ports_alone(
    listening: str, server: tuple[str, int], host: str, expected: int
) -> None:
    assert status(listening, server, {"host": host}) == expected


@pytest.mark.parametrize(
    ("port", "host", "origin", "expected"),
    [
        (80, "localhost", "http://localhost", 204),
        (80, "localhost:80", "http://localhost", 204),
        (443, "localhost", "https://localhost", 204),
        (443, "localhost:443", "https://localhost", 204),
        (5000, "localhost:5000", "http://localhost:5000", 204),
        (80, "localhost", "https://localhost", 403),
        (80, "localhost", "http://localhost:8080", 403),
        (443, "localhost", "https://evil.com", 403),
        (443, "localhost", "https://localhost:8443", 403),
        (443, "localhost", "null", 403),
        (5000, "localhost:5000", "http://localhost", 403),
        (5000, "localhost:5000", "https://localhost:5000", 403),
    ],
)
def test_a_page_of_the_dashboard_itself_may_ask(port: int, host: str, origin: str, expected: int) -> None:
    assert status("127.0.0.1", ("127.0.0.1", port), {"host": host, "origin": origin}) == expected
