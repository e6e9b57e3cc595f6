"""Who may ask a server, by the application itself."""

import asyncio
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from pipeline.cli import app as cli
from pipeline.errors import UsageError
from pipeline.listening import loopback_names
from pipeline.serve.access import Gate, digest_of
from pipeline.serve.app import AppMaker
from pipeline.serve.limits import TOKEN_VARIABLE, Limits

TOKEN = b"0123456789abcdefTOKEN"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Read the body and send nothing in reply but 200."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def status_of(path: str, *headers: tuple[bytes, bytes], digest: bytes | None = digest_of(TOKEN)) -> int:
    """Return the status of a reply, whose headers are looked at."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    gate = Gate(hello, token_digest=digest, most_bytes=10)
    asyncio.run(gate({"type": "http", "path": path, "headers": list(headers)}, receive, send))
    assert dict(sent[0]["headers"])[b"content-security-policy"].startswith(b"default-src 'none'")
    return int(sent[0]["status"])


@pytest.mark.parametrize("path", ["/about", "/generate", "/openapi.json", "/docs", "/health/", "//health"])
def test_without_the_token_nothing_of_the_model_is_shown(path: str) -> None:
    assert status_of(path) == 401
    for given in (
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer " + TOKEN[:-1],
        b"Bearer " + TOKEN + b"x",
        b"Basic " + TOKEN,
        TOKEN,
    ):
        assert status_of(path, (b"authorization", given)) == 401
    assert status_of(path, (b"authorization", b"Bearer " + TOKEN)) == 200
    assert status_of(path, (b"authorization", b"bearer  " + TOKEN)) == 200


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/health", "/ready"])
def test_page_and_health_need_no_token(path: str) -> None:
    assert status_of(path) == 200


def test_where_no_token_is_set_none_is_needed() -> None:
    assert status_of("/about", digest=None) == 200


@pytest.mark.parametrize(
    ("host", "token", "words"),
    [
        ("0.0.0.0", None, f"--host: found 0.0.0.0, which other machines reach; set {TOKEN_VARIABLE} to a secret"),
        ("::", None, "which other machines reach"),
        ("", None, "which other machines reach"),
        ("localhost.evil.example", None, "which other machines reach"),
        ("127.evil.example", None, "which other machines reach"),
        ("127.0.0.1", "short", f"{TOKEN_VARIABLE}: is no token; give at least 16 characters"),
        ("0.0.0.0", "with spaces in it, and long", "is no token"),
        ("0.0.0.0", "", "is no token"),
    ],
)
def test_any_address_but_loopback_needs_a_token(
    host: str, token: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is None:
        monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    result = CliRunner().invoke(cli, ["serve", "nothing", "--host", host])
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)
    assert not token or token not in str(result.exception)


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("::1", "[::1] [::1]:8000 localhost:8000 LocalHost 127.0.0.1:8000"),
        ("0:0:0:0:0:0:0:1", "[::1]:8000 [0:0:0:0:0:0:0:1]:8000"),
        ("0000::0001", "[::1]:8000 [0000::0001]"),
        ("localhost", "localhost:8000 [::1]:8000 127.0.0.1"),
        ("127.0.0.1", "127.0.0.1:8000 localhost"),
        ("127.0.0.2", "127.0.0.2:8000 localhost"),
    ],
)
def test_without_a_token_names_of_loopback_alone_are_served(host: str, served: str) -> None:
    client = TestClient(AppMaker("tiny-1", Limits(), (), loopback_names(host))(None))  # type: ignore[arg-type]

    def status(name: str) -> int:
        return client.get("/health", headers={"host": name}).status_code

    assert {name: status(name) for name in served.split()} == dict.fromkeys(served.split(), 200)
    others = ["evil.com", "evil.com:8000", "::1", "[::2]:8000", "[::1].evil.com", "[::1]evil.com", "127.0.0.3:8000"]
    assert {name: status(name) for name in others} == dict.fromkeys(others, 400)
