"""Jobs on a Ray of its own, started as an administrator starts one, with token authentication left on."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A running head node, and the environment that a user with its token has."""

    address: str
    environment: dict[str, str]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """`ray start --head` with a token, ended by its own process id."""
    port = _free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    folder = Path(f"/tmp/corgi-ray-{os.getpid()}")  # sockets below it must have short names
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--port=0", f"--dashboard-port={port}",
        "--dashboard-host=127.0.0.1", f"--ray-client-server-port={_free_port()}", "--min-worker-port=0",
        "--max-worker-port=0", "--num-cpus=2", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    with (
        (tmp_path_factory.mktemp("head") / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT) as process,
    ):
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/api/version", process)
            yield Head(f"http://127.0.0.1:{port}", environment)
        finally:
            for child in [process, *psutil.Process(process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()  # Ray's own way down takes half a minute
            shutil.rmtree(folder, ignore_errors=True)


def _wait_until_up(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, "the head node ended at once"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return  # it answers, and asks for the token
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the head node did not come up in 90 s")


def _run(command: list[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_ray_job_submit_runs_the_smoke_experiment(head: Head, tmp_path: Path) -> None:
    command = [
        str(BIN / "ray"), "job", "submit", "--address", head.address, "--working-dir", ".", "--",
        "python", "-m", "pipeline", "run", "configs/smoke.yaml", f"store={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=head.environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = [json.loads(p.read_text()) for p in tmp_path.glob("runs/*/run.json")]
    assert record["status"] == "done"

    # The same experiment again through `corgi submit`: the job finds everything done.
    again = [
        str(BIN / "corgi"),
        "submit",
        "configs/smoke.yaml",
        f"store={tmp_path}",
        "--address",
        head.address,
        "--json",
    ]
    done = subprocess.run(
        again, cwd=ROOT, env=head.environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["status"] == "SUCCEEDED"
    assert "everything is done" in done.stderr


def test_submit_without_the_token_is_reported(head: Head) -> None:
    environment = {key: value for key, value in head.environment.items() if not key.startswith("RAY_")}
    environment["HOME"] = "/nonexistent"  # no token file of the machine's user either
    command = [str(BIN / "corgi"), "submit", "configs/smoke.yaml", "--address", head.address]
    done = _run(command, environment)
    assert done.returncode == 2
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr
