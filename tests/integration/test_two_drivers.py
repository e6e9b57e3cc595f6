"""Two drivers, as of two machines, on one artifact: killed, or stopped and continued, on a shared folder and on S3."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.integration.driver import UNITS
from tests.s3_server import S3Server, serve_s3

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=["folder", "s3", "s3 without conditional writes"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def s3(kind: str) -> Iterator[S3Server]:
    with serve_s3(unconditional=kind.endswith("writes")) as server:
        yield server


@pytest.fixture
def store(kind: str, s3: S3Server, tmp_path: Path) -> str:
    return str(tmp_path / "store") if kind == "folder" else s3.uri()


def _start(store: str, folder: Path, machine: str, seconds: float, s3: S3Server) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration.driver", store, str(folder / machine), machine, str(seconds)]
    environment = os.environ | s3.environment | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def _read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while (found := process.stdout.readline()).strip() != line:
        assert found, f"it ended before {line!r}"


def _contents(store: str, s3: S3Server) -> dict[str, bytes]:
    if store.startswith("s3://"):
        return s3.contents(f"{store}/artifacts")
    fs = fsspec.filesystem("file")
    return {name: fs.cat_file(name) for name in fs.find(f"{store}/artifacts")}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sign", [pytest.param(signal.SIGKILL, marks=pytest.mark.thorough), signal.SIGSTOP])
def test_the_second_takes_over_and_nothing_of_the_first_counts_any_more(
    store: str, s3: S3Server, tmp_path: Path, sign: signal.Signals
) -> None:
    with _start(store, tmp_path, "a", 6.0, s3) as first, _start_after(first, store, tmp_path, s3) as second:
        try:
            first.send_signal(sign)
            said, _ = second.communicate(timeout=300)
            assert second.returncode == 0, said
            lines = said.splitlines()
            assert "is being made by corgi on " in lines[0]
            assert "run a) since " in lines[0]
            assert lines[1].endswith("whose lease has expired")
            assert lines[2:] == [f"{what} {unit}" for unit in UNITS[1:] for what in ("begin", "done")]
            before: Any = _contents(store, s3)
            assert len(before) >= 2 * len(UNITS) + 2
            if sign == signal.SIGSTOP:
                first.send_signal(signal.SIGCONT)
                said, _ = first.communicate(timeout=300)
                assert first.returncode == 4, said
                assert "was taken over by corgi on " in said
                assert "done 00001" not in said
            assert _contents(store, s3) == before
        finally:
            first.kill()
            second.kill()


def _start_after(first: subprocess.Popen[str], store: str, folder: Path, s3: S3Server) -> subprocess.Popen[str]:
    """Start the second when the first is at its second unit."""
    _read_until(first, f"begin {UNITS[1]}")
    return _start(store, folder, "b", 0.1, s3)
