"""A real server of S3's protocol (moto's), in a process of its own, and how a process reaches it."""

import contextlib
import json
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec

from tests.ports import free_port

_SERVE = """
import itertools, logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
port = int(sys.argv[1])
if sys.argv[2:] == ["unconditional"]:
    from moto.moto_server import threaded_moto_server
    class Unconditional(threaded_moto_server.DomainDispatcherApplication):
        def __call__(self, environ, start_response):
            for condition in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
                environ.pop(condition, None)
            return super().__call__(environ, start_response)
    threaded_moto_server.DomainDispatcherApplication = Unconditional
for order in itertools.chain(["start"], sys.stdin):
    if order.strip() == "start":
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        port = server.get_host_and_port()[1]
    else:
        server.stop()
    print(port, flush=True)
"""


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, and a bucket in it."""

    endpoint: str
    bucket: str
    process: "subprocess.Popen[str]"

    def order(self, word: str) -> str:
        """Let the server stop listening, or start again with all that it holds; return its port."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Do not listen for the length of the block."""
        self.order("stop")
        try:
            yield
        finally:
            self.order("start")

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which any process finds the server, with credentials that it takes."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test-access-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret-key",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def file_system(self) -> Any:
        """Return access of the test's own, which keeps no listings."""
        options = {"endpoint_url": self.endpoint, "key": "test-access-key", "secret": "test-secret-key"}
        return fsspec.filesystem("s3", **options, use_listings_cache=False, skip_instance_cache=True)

    def contents(self, uri: str) -> dict[str, bytes]:
        """Return all objects below an address, by their names there."""
        fs = self.file_system()
        found = fs.find(uri)
        return {name[len(uri.removeprefix("s3://")) + 1 :]: fs.cat_file(name) for name in found}

    def uri(self, name: str = "") -> str:
        """Return an address that nobody else uses."""
        return f"s3://{self.bucket}/{name or uuid.uuid4().hex}"

    def report(self, path: str, body: str) -> None:
        """Send the server an order of moto's own."""
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.endpoint}/moto-api/{path}", body.encode(), headers, method="POST")
        with urllib.request.urlopen(request) as reply:
            json.load(reply)


@contextlib.contextmanager
def serve_s3(*, unconditional: bool = False) -> Iterator[S3Server]:
    """Run the server for the length of the block, or one that takes no notice of the conditions of a write."""
    kind = ["unconditional"] if unconditional else []
    command = [sys.executable, "-W", "ignore", "-c", _SERVE, str(free_port()), *kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            endpoint = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            server = S3Server(endpoint, f"bucket-{uuid.uuid4().hex[:8]}", process)
            server.file_system().mkdir(server.bucket)
            yield server
        finally:
            process.kill()
