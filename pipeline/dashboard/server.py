"""Open the dashboard of a store's runs, MLflow's own page below it, for this user alone.

Its address holds a token, which :mod:`pipeline.dashboard.app` asks of every request.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from pipeline.dashboard.names import ARTIFACTS, EXPERIMENT, HOSTS, STORE, TOKEN, TRACKING
from pipeline.errors import UsageError
from pipeline.listening import ALL, address, host_headers, is_loopback, reached_at, require_free
from pipeline.terminal import echo
from pipeline.tracking_address import sqlite_path, usable_address
from stages.contract.texts import printable

_ROOT = Path(__file__).resolve().parents[2]  # modules come from here, never from the current folder
_OFF = {  # whatever the environment says: checked here instead, or not needed
    "MLFLOW_SERVERALLOWED_HOSTS": "*",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_ENABLE_WORKSPACES": "false",
    "_MLFLOW_IN_JOB_EXECUTOR": "false",
}

START_SECONDS = 90.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Shown:
    """What a dashboard shows: a store, and where its runs are recorded with MLflow, if they are."""

    store: str
    tracking_uri: str = ""
    experiment: str = ""


def open_dashboard(shown: Shown, host: str = "127.0.0.1", port: int = 5000) -> None:
    """Serve the dashboard until Ctrl-C."""
    signal.signal(signal.SIGTERM, _leave)  # else the server would outlive this process
    with serve_dashboard(shown, host, port) as (url, process):
        echo(f"dashboard: {url}/ (for you alone: the address is the key; Ctrl-C ends it)", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()


@contextlib.contextmanager
def serve_dashboard(shown: Shown, host: str, port: int) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Yield the address with its token once the server answers there, and its process; at the end stop all of it."""
    require_free(host, port, "dashboard")
    token = secrets.token_urlsafe(24)
    with tempfile.TemporaryFile() as log:
        process = _start(shown, host, port, token, log)
        try:
            base = f"http://{address(reached_at(host), port)}"
            _wait_for_server(base, process, log)
            yield f"{base}/{token}", process
        finally:
            _stop(process)


def _start(shown: Shown, host: str, port: int, token: str, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-m", "uvicorn", "--factory", "pipeline.dashboard.app:create_app"]
    command += [
        "--app-dir",
        str(_ROOT),
        "--host",
        host,
        "--port",
        str(port),
        "--no-access-log",
        "--no-server-header",
        "--no-proxy-headers",
    ]
    tracking = usable_address(shown.tracking_uri) if shown.tracking_uri else ""
    database = sqlite_path(tracking)
    files = "" if database is None else database.parent / "mlartifacts"
    ours = {STORE: shown.store, TRACKING: tracking, EXPERIMENT: shown.experiment, ARTIFACTS: str(files)}
    ours |= {TOKEN: token, HOSTS: ",".join(_hosts(host, port))}
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true"} | os.environ | _OFF | ours
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def _hosts(host: str, port: int) -> list[str]:
    """Return what may stand in Host; the numeric address that a request came to may always."""
    names = {host, reached_at(host)} | (set() if is_loopback(host) else {socket.gethostname(), socket.getfqdn()})
    names |= {"localhost", "127.0.0.1"} if is_loopback(host) or host in ALL else set()
    return sorted(header for name in names - set(ALL) for header in host_headers(name, port))


def _wait_for_server(url: str, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        time.sleep(0.2)
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    reason = printable("\n".join(lines[-5:])) or "no output"
    raise UsageError(f"dashboard: its server did not start; its last output:\n{reason}")


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
