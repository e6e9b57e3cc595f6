"""Tracking servers that are none, refuse, or stand below a path: one sentence with the right remedy, in seconds."""

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.errors import UsageError
from pipeline.tracking import RunTracker
from pipeline.tracking_address import default_tracking_uri, sqlite_address, sqlite_path

REPLIES: dict[str, tuple[int, bytes, str]] = {
    "unauthorized": (401, b"<html>login \x1b[31m</html>", "MLFLOW_TRACKING_USERNAME"),
    "forbidden": (403, b"no", "MLFLOW_TRACKING_TOKEN"),
    "prefix": (404, b"not here", "add the path below which"),
    "html": (200, b"<html>hello</html>", "check the address"),
    "deep": (200, b"[" * 200_000, "check the address"),
    "list": (200, b"[1, 2]", "check the address"),
    "other": (200, b'{"experiment": {"experiment_id": [1]}}', "check the address"),
    "code": (400, b'{"error_code": "\\u001b[31mX", "message": "a\\nb\\u202e"}', "check the address"),
}


class _Server(http.server.BaseHTTPRequestHandler):
    """Gives the reply that the first part of the path names."""

    def do_GET(self) -> None:
        status, body, _ = REPLIES[self.path.split("/")[1]]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as found:
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.mark.parametrize("reply", REPLIES)
def test_a_server_that_refuses_is_one_sentence(server: str, reply: str) -> None:
    begun = time.monotonic()
    with pytest.raises(UsageError) as caught:
        RunTracker.open(f"{server}/{reply}", "shapes", "run", None)
    assert time.monotonic() - begun < 60
    words = str(caught.value)
    assert REPLIES[reply][2] in words
    assert words.isprintable()
    assert len(words) < 700


@pytest.mark.parametrize("name", ["a b", "a?b%20c", "a%20b", "a#b", "a[1]", "ünï", "a;b&c=d", "file:x"])
def test_a_store_of_any_name_holds_its_own_database(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    uri = default_tracking_uri(folder)
    assert sqlite_path(uri) == folder / "mlflow.db"
    assert sqlite_address(folder / "mlflow.db") == uri
    if name == "a?b%20c":
        RunTracker.open(uri, "shapes", "run", None).finish("done")
        assert [one.name for one in tmp_path.iterdir()] == [name]
        assert (folder / "mlflow.db").stat().st_size > 0
        assert MlflowClient(uri).get_experiment_by_name("shapes").artifact_location.endswith("/a%3Fb%2520c/mlartifacts")
