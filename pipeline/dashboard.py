"""Open MLflow's own user interface on the runs of a store."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, NoReturn

from pipeline.errors import UsageError
from pipeline.tracking_address import is_server, usable_address

START_SECONDS = 90.0
STOP_SECONDS = 10.0


RUNS_PAGE = "#/experiments/{experiment}/runs?workflowType=machine_learning"
"""MLflow's own start page shows traces of language models, of which there are none."""


def open_dashboard(tracking_uri: str, experiment: str, host: str = "127.0.0.1", port: int = 5000) -> None:
    """Serve the dashboard until Ctrl-C; a tracking server has one already, whose address is printed."""
    page = RUNS_PAGE.format(experiment=experiment)
    tracking_uri = usable_address(tracking_uri)
    if is_server(tracking_uri):
        _report(f"dashboard: {tracking_uri.rstrip('/')}/{page}")
        return
    signal.signal(signal.SIGTERM, _leave)  # else the server would outlive this process
    with serve_dashboard(tracking_uri, host, port) as (url, process):
        _report(f"dashboard: {url}/{page} (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()


@contextlib.contextmanager
def serve_dashboard(tracking_uri: str, host: str, port: int) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Yield the address once the server answers there, and its process; at the end stop both it and its children."""
    _require_free(host, port)
    with tempfile.TemporaryFile() as log:
        process = _start(tracking_uri, host, port, log)
        try:
            url = f"http://{host}:{port}"
            _wait_for_server(url, process, log)
            yield url, process
        finally:
            _stop(process)


def _start(tracking_uri: str, host: str, port: int, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    environment["MLFLOW_BACKEND_STORE_URI"] = tracking_uri  # a command line is seen by all users of the machine
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"dashboard: cannot listen on {host}:{port} ({error.strerror}); give another with --port"
            ) from None


def _wait_for_server(url: str, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        time.sleep(0.2)
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    reason = "\n".join(lines[-5:]) or "no output"
    raise UsageError(f"dashboard: MLflow's server did not start; its last output:\n{reason}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server's process group, children included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _leave(number: int, _frame: object) -> NoReturn:
    """End this process as the signal would, but with everything cleared up."""
    sys.exit(128 + number)


def _report(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
