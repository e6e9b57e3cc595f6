"""The notification at the end of a run, to a real HTTP server: what is posted, and that nothing comes of its faults."""

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config.schema import NotifyConfig, RunConfig
from pipeline.notification import end_document, notify
from stages.contract import secrets
from stages.contract.secrets import redact, remember_environment, remember_secrets, secrets_in
from tests.factories import make_entry, make_record

SECRET = "T0123hidden4567"


class _Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted; the path says how it replies."""

    posted: list[tuple[str, dict[str, str], Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append((self.path, dict(self.headers), json.loads(body)))
        if "never" in self.path:
            threading.Event().wait(100)
            return
        status = 302 if "elsewhere" in self.path else 500 if "broken" in self.path else 204
        self.send_response(status)
        self.send_header("Location", "/found")
        self.end_headers()

    def do_GET(self) -> None:
        self.posted.append((self.path, {}, None))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def posted() -> list[tuple[str, dict[str, str], Any]]:
    return []


@pytest.fixture
def server(posted: list[Any]) -> Iterator[str]:
    handler = type("Receiver", (_Receiver,), {"posted": posted})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        found.daemon_threads = True
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", secrets._Known())


def test_the_end_of_a_run_is_posted_once(server: str, posted: list[Any]) -> None:
    failed = make_entry("train_prior", "failed", error="the loss is not finite: lower the learning rate")
    stages = [make_entry("download_shards"), failed, make_entry("generate", "blocked")]
    record = make_record(status="failed", stages=stages, seconds=61.5)
    words: list[str] = []
    notify(f"http://me:{SECRET}@{server}/hook", end_document(record, "s3://key:word@bucket/x"), words.append)
    ((path, headers, document),) = posted
    assert words == []
    assert path == "/hook"
    assert headers["Authorization"] == f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"
    assert headers["Content-Type"] == "application/json"
    assert document == {
        "run": "tiny-1", "name": "tiny", "status": "failed", "stage": "train_prior",
        "error": "the loss is not finite: lower the learning rate", "seconds": 61.5, "started": "2026-01-01",
        "finished": None, "store": "s3://…@bucket/x",
        "text": "corgi: run tiny-1: failed at train_prior: the loss is not finite: lower the learning rate",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        ("done", None, "corgi: run tiny-1: done"),
        ("interrupted", KeyboardInterrupt(), "corgi: run tiny-1: interrupted"),
        ("failed", RuntimeError("the cluster\nis gone \x1b[31m"), "corgi: run tiny-1: failed: the cluster"),
    ],
)
def test_every_end_has_its_words(status: str, error: BaseException | None, text: str) -> None:
    document = end_document(make_record(status=status), "here", error)
    assert document["text"].startswith(text)
    assert document["text"].isprintable()
    assert document["status"] == status


@pytest.mark.parametrize(
    ("path", "found"), [("broken", "status 500"), ("elsewhere", "status 302"), ("never", "timed out|no reply")]
)
def test_a_server_that_does_not_take_it_is_a_warning(server: str, posted: list[Any], path: str, found: str) -> None:
    words: list[str] = []
    begun, seconds = time.monotonic(), 2.0 if path == "never" else 60.0
    notify(f"http://{server}/{SECRET}/{path}", end_document(make_record(), "here"), words.append, seconds=seconds)
    assert time.monotonic() - begun < 50
    while not posted and time.monotonic() - begun < 50:  # read later, where the server is slow
        time.sleep(0.05)
    (warning,) = words
    assert any(one in warning for one in found.split("|"))
    assert f"http://{server}/…" in warning
    assert SECRET not in warning
    assert len(posted) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://[::1/x", "http://nowhere.invalid/x", "http://h:x/"])
def test_an_address_where_nobody_is_is_a_warning(url: str) -> None:
    words: list[str] = []
    notify(url, end_document(make_record(), "here"), words.append, seconds=0.5)
    assert len(words) == 1


def test_the_address_is_a_secret_but_for_its_host() -> None:
    url = f"https://hooks.host/services/{SECRET}/abcdefghijkl"
    tree = {"notify": {"url": url}}
    assert list(secrets_in(tree)) == [("notify.url", url)]
    remember_secrets(tree)
    assert SECRET not in redact(f"cannot reach {url}: /services/{SECRET}/abcdefghijkl")
    section = NotifyConfig(url=url)
    assert section.shown() == {"url": "https://hooks.host/…"}
    assert SECRET not in repr(section)


def test_the_address_in_the_environment_is_a_secret_too() -> None:
    remember_environment({"CORGI_NOTIFY_URL": f"https://hooks.host/services/{SECRET}"})
    assert SECRET not in redact(f"found {SECRET}")


@pytest.mark.parametrize(
    "url", ["ftp://host/secret", "host/secret", "http://", "http://host:99999/secret", "https:/secret"]
)
def test_an_address_of_another_kind_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="allowed is a web address") as caught:
        RunConfig.model_validate({"name": "x", "notify": {"url": url}})
    assert "/secret'" not in str(caught.value).partition("input_value")[0]
