"""Servers that ask for a token, that ask for none, and that are not Ray; 0.0.0.0 is this machine, and not loopback."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest

from cluster.authentication import authentication_at, check_authentication, host_of, is_loopback
from cluster.errors import Unauthenticated, Unreachable
from pipeline.submission import permission_for

ROOT = Path(__file__).resolve().parents[3]
VERSION = json.dumps({"version": "4", "ray_version": "2.60.0"})
WORDS = {"where": "--address", "option": "--allow-unauthenticated"}


@contextlib.contextmanager
def _job_server(status: int, body: str) -> Iterator[int]:
    class Reply(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *values: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Reply) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def _control_service(code: grpc.StatusCode | None) -> Iterator[int]:
    """Serve Ray's own service, which a real cluster answers in tests/integration/test_cluster_commands.py."""
    from ray.core.generated import gcs_service_pb2 as messages
    from ray.core.generated import gcs_service_pb2_grpc as services

    class Service(services.NodeInfoGcsServiceServicer):  # type: ignore[misc]  # ray is not typed here
        def CheckAlive(self, request: object, context: grpc.ServicerContext) -> object:
            if code is not None:
                context.abort(code, "InvalidAuthToken")
            return messages.CheckAliveReply()

    server = grpc.server(ThreadPoolExecutor(1))
    services.add_NodeInfoGcsServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, VERSION, "open"),
        (401, "Unauthorized: Missing authentication token", "required"),
        (403, "Forbidden", "required"),
        (200, "<html>log in</html>", "unknown"),
        (200, "[1]", "unknown"),
        (200, "7", "unknown"),
        (200, "[" * 9_000, "unknown"),
        (404, "", "unknown"),
    ],
)
def test_a_job_server_is_asked_for_its_version(status: int, body: str, expected: str) -> None:
    with _job_server(status, body) as port:
        assert authentication_at(f"http://127.0.0.1:{port}") == expected
        assert authentication_at(f"http://127.0.0.1:{port}/") == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [(None, "open"), (grpc.StatusCode.UNAUTHENTICATED, "required"), (grpc.StatusCode.INTERNAL, "unknown")],
)
def test_a_control_service_is_asked_whether_it_lives(code: grpc.StatusCode | None, expected: str) -> None:
    with _control_service(code) as port:
        assert authentication_at(f"127.0.0.1:{port}") == expected


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1", "ray://127.0.0.1:1"])
def test_where_nothing_responds_the_state_is_unknown(address: str) -> None:
    assert authentication_at(address) == "unknown"
    assert check_authentication(address, allowed=False, **WORDS) is False


def test_an_open_cluster_is_refused_unless_it_is_on_loopback_or_allowed() -> None:
    with _job_server(200, VERSION) as port:
        outside = f"http://0.0.0.0:{port}"
        with pytest.raises(Unauthenticated) as refused:
            check_authentication(outside, allowed=False, **WORDS)
        assert check_authentication(outside, allowed=True, **WORDS) is True
        assert check_authentication(f"http://127.0.0.1:{port}", allowed=False, **WORDS) is True
    words = str(refused.value)
    assert words.startswith(f"--address: the Ray cluster at '{outside}' asks for no token")
    assert "`ray get-auth-token --generate` and with RAY_AUTH_MODE=token" in words
    assert words.endswith("or set --allow-unauthenticated")


def test_a_cluster_that_asks_for_a_token_passes() -> None:
    with _job_server(401, "") as port:
        assert check_authentication(f"http://0.0.0.0:{port}", allowed=False, **WORDS) is False


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("http://head:8265", "head"),
        ("https://head", "head"),
        ("http://user:secret@head:1/path", "head"),
        ("http://[::1]:8265", "::1"),
        ("ray://head:10001", "head"),
        ("head:6379", "head"),
        ("[::1]:6379", "::1"),
        ("auto", None),
        ("local", None),
        ("127.0.0.1:²", None),
    ],
)
def test_the_host_of_an_address(address: str, host: str | None) -> None:
    assert host_of(address) == host


@pytest.mark.parametrize("address", ["http://[::1", "ray://[::1", "[::1:6379", "http://a\u2100b:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    for ask in (lambda: host_of(address), lambda: check_authentication(address, allowed=True, **WORDS)):
        with pytest.raises(Unreachable, match=r"^cluster: '.*' is no address \(.*\): allowed are host:port, ray:"):
            ask()


@pytest.mark.parametrize("address", ["ray://\udcff:1", "\udcff:1", "http://\udcff:1", f"http://{'a' * 300}:1"])
def test_at_an_address_that_nobody_can_have_the_state_is_unknown(address: str) -> None:
    assert authentication_at(address) == "unknown"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a" * 300, False),
        ("\udcff", False),
        ("localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.0.2.7", False),
    ],
)
def test_which_hosts_are_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def _refusal(*command: str) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, " ".join(done.stderr.split())


def test_submit_refuses_an_open_cluster() -> None:
    with _job_server(200, VERSION) as port:
        code, words = _refusal("submit", "configs/smoke.yaml", "--address", f"http://0.0.0.0:{port}")
    assert code == 2
    assert f"corgi: --address: the Ray cluster at 'http://0.0.0.0:{port}' asks for no token" in words
    assert "package:" not in words, "nothing is packed for it"


def test_run_refuses_an_open_cluster(tmp_path: Path) -> None:
    with _control_service(None) as port:
        address = f"cluster.address=0.0.0.0:{port}"
        code, words = _refusal("run", "configs/smoke.yaml", f"store={tmp_path}/store", address)
    assert code == 2
    assert f"cluster.address: the Ray cluster at '0.0.0.0:{port}' asks for no token" in words
    assert "cluster.allow_unauthenticated: true" in words


def test_the_job_of_an_open_cluster_that_may_be_used_gets_the_permission() -> None:
    said: list[str] = []
    with _job_server(200, VERSION) as port:
        assert permission_for(f"http://127.0.0.1:{port}", False, said.append) == ["cluster.allow_unauthenticated=true"]
    with _job_server(401, "") as port:
        assert permission_for(f"http://127.0.0.1:{port}", False, said.append) == []
    (warning,) = said
    assert warning.startswith("warning: the cluster asks for no token")
