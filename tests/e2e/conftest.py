"""Run ``corgi`` as a user does: as a command in a process of its own, over the smoke experiment."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "configs" / "smoke.yaml"
CORGI = [sys.executable, "-m", "pipeline"]
LONGEST_RUN = 500.0  # seconds, on a machine that is slow and busy


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def states(self) -> dict[str, str]:
        return {stage["name"]: stage["state"] for stage in self.document["stages"]}


def clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}


def corgi(
    *words: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = LONGEST_RUN
) -> Finished:
    command = [*CORGI, *map(str, words)]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)} | (env or {})
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def run_and_kill(
    when: Callable[[], bool], *overrides: str, sign: int = signal.SIGKILL, env: dict[str, str] | None = None
) -> int:
    """Start the smoke experiment, send the signal as soon as ``when`` holds, and return the exit code."""
    command = [*CORGI, "run", str(SMOKE), *overrides]
    environment = clean_environment() | (env or {})
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509  no other thread is running here
    ) as process:
        try:
            deadline = time.monotonic() + LONGEST_RUN
            while not when():
                assert process.poll() is None, "the run ended before it could be disturbed"
                assert time.monotonic() < deadline, "the moment to disturb the run never came"
                time.sleep(0.005)
            process.send_signal(sign)
            return process.wait(timeout=LONGEST_RUN)
        finally:
            process.kill()


def _heed_interrupts() -> None:
    """Undo what a shell does to its background jobs, and they hand on: to ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def checksums(store: Path, stage: str) -> dict[str, str]:
    """Return the SHA-256 of every file of the stage's only artifact."""
    (folder,) = (store / "artifacts" / stage).iterdir()
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """The smoke experiment run once, from nothing to its end, by whichever of pytest's processes is first.

    The folder holds the store, and a copy of it that nobody writes to.
    """
    is_one_of_several = "PYTEST_XDIST_WORKER" in os.environ
    common = tmp_path_factory.getbasetemp().parent if is_one_of_several else tmp_path_factory.mktemp("common")
    outcome = common / "outcome.json"
    with (common / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            done = corgi("run", SMOKE, f"store={common / 'store'}", "--json")
            assert done.code == 0, done.err
            shutil.copytree(common / "store", common / "copy")
            outcome.write_text(json.dumps([done.code, done.out, done.err]))
    return common, Finished(*json.loads(outcome.read_text()))


@pytest.fixture(scope="session")
def undisturbed(finished: tuple[Path, Finished]) -> tuple[Path, Finished]:
    """The finished smoke experiment's store; for the tests of one file, one after another."""
    return finished[0] / "store", finished[1]


@pytest.fixture(scope="session")
def unchanged(finished: tuple[Path, Finished]) -> tuple[Path, Finished]:
    """A copy of the finished smoke experiment's store, to be copied again before anything is done to it."""
    return finished[0] / "copy", finished[1]
