"""MLflow's own server on SQLite, and a gateway before it that a test lets fail in the ways of networks."""

import contextlib
import http.client
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path


class Gateway(http.server.ThreadingHTTPServer):
    """Passes requests on to the server; ``fault`` looks at each of them first."""

    daemon_threads = True

    def __init__(self, target: int, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.target = target
        self.fault: Callable[[Handler], bool] = lambda handler: False
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Gateway
    has_reply = True

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.fault(self):
            return
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers))
            reply = connection.getresponse()
            self.reply(reply.status, reply.read(), reply.getheader("Content-Type", ""))

    def reply(self, status: int, body: bytes = b"{}", kind: str = "application/json") -> bool:
        if not self.has_reply:
            self.connection.shutdown(socket.SHUT_RDWR)
            return True
        with contextlib.suppress(OSError):  # whoever asked may have gone
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        return True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@contextlib.contextmanager
def serve_mlflow(folder: Path, port: int) -> Iterator[int]:
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "files"), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight more processes
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(
            [*command, "--workers", "1"], stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 300
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)
