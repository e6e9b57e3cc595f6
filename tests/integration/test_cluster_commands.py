"""The commands of docs/cluster.md and README.md, taken from their text and run in their order on two nodes.

Only names are replaced (HEAD, the store), and what keeps the cluster apart from another on this machine is added:
ports, a temporary folder, and --block, so that it can be ended by its own process ids.
"""

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
EXPERIMENT = """
name: smoke
tracking: {register_model: false}
download_shards:
  source: {kind: scenes, num_images: 12, resolution: 32}
  rows_per_shard: 12
  image_size: 32
  encode_format: png
"""
#: `ray start` as documented, but in the background and apart from others: the test ends it by the ids in $PIDS.
RAY = """#!/bin/bash
if [ "$1" = start ] && [[ " $* " == *" --head "* ]]; then set -- "$@" $HEAD_OPTIONS;
elif [ "$1" = start ]; then set -- "$@" $NODE_OPTIONS; fi
if [ "$1" = start ]; then
    {real} "$@" --block --min-worker-port=0 --max-worker-port=0 --num-cpus=2 --disable-usage-stats >> "$LOG" 2>&1 &
    echo $! >> "$PIDS"
    exit
fi
exec {real} "$@"
"""


@dataclass
class Shell:
    """A user's shell: a home of its own, and the variables that earlier commands exported."""

    folder: Path
    ports: dict[str, int]
    exported: dict[str, str] = field(default_factory=dict)

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run one documented command."""
        if command.startswith("export "):
            self.exported |= dict(word.split("=", 1) for word in command.split()[1:])
            return subprocess.CompletedProcess(command, 0, "", "")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {
            "HOME": str(self.folder / "home"), "PATH": f"{self.folder}/bin:{BIN}:{os.environ['PATH']}",
            "LOG": str(self.folder / "log"), "PIDS": str(self.folder / "pids"), "PYTHONPATH": str(ROOT),
            "HEAD_OPTIONS": f"--port={self.ports['6379']} --dashboard-port={self.ports['8265']} "
            f"--ray-client-server-port={free_port()} --dashboard-agent-listen-port={free_port()} "
            f"--temp-dir=/tmp/corgi-docs-{os.getpid()}",
            "NODE_OPTIONS": f"--dashboard-agent-listen-port={free_port()}",
        } | self.exported  # fmt: skip
        return subprocess.run(
            ["bash", "-c", self._localized(command)], cwd=self.folder, env=environment, capture_output=True, text=True,
            timeout=500, check=False,
        )  # fmt: skip

    def _localized(self, command: str) -> str:
        for documented, port in self.ports.items():
            command = re.sub(rf"\b(?:HEAD|127\.0\.0\.1):{documented}\b", f"127.0.0.1:{port}", command)
        return re.sub(r"store=\S+", f"store={self.folder}/store", command)


def _commands(document: str, title: str) -> list[str]:
    """Return the commands of a section's blocks, without their comments."""
    text = (ROOT / document).read_text()
    section = re.split(r"^## ", text.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.M)[0]
    lines = [line for block in re.findall(r"```\n(.*?)```", section, re.S) for line in block.splitlines()]
    return [re.sub(r"\s+# .*", "", line) for line in lines if line.strip()]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    for name in ("home", "bin", "configs"):
        (tmp_path / name).mkdir()
    (tmp_path / "configs" / "smoke.yaml").write_text(EXPERIMENT)
    ray = tmp_path / "bin" / "ray"
    ray.write_text(RAY.replace("{real}", str(BIN / "ray")))
    ray.chmod(0o755)
    try:
        yield Shell(tmp_path, {"6379": free_port(), "8265": free_port()})
    finally:
        started = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
        for pid in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                for one in [process, *process.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()  # Ray's own way down takes half a minute
        shutil.rmtree(f"/tmp/corgi-docs-{os.getpid()}", ignore_errors=True)


@pytest.mark.timeout(1500)  # two nodes, and four jobs
def test_the_documented_commands_make_a_protected_cluster_and_run_on_it(shell: Shell) -> None:
    by_hand = _commands("docs/cluster.md", "A Ray cluster by hand")
    generate, export, head, export_again, join, ask = by_hand
    assert export == export_again == "export RAY_AUTH_MODE=token"
    refused = shell_without_token(shell, export).run(head.replace("ray start", f"{BIN}/ray start"))
    assert refused.returncode != 0, "RAY_AUTH_MODE=token starts no cluster that is open"

    _expect(shell, generate)
    assert stat.S_IMODE((shell.folder / "home/.ray/auth_token").stat().st_mode) == 0o600
    _expect(shell, export)
    _expect(shell, head)
    _expect_until(shell, ask, "401\n")
    for command in _commands("docs/cluster.md", "Submitting"):
        _expect_job(shell, command)
    doctor = shell.run(f"corgi doctor configs/smoke.yaml cluster.address=127.0.0.1:{shell.ports['6379']}")
    assert "responds, and takes the token of" in " ".join(doctor.stdout.split()), doctor.stdout + doctor.stderr

    readme = _commands("README.md", "A cluster")
    assert readme[:3] == [generate, export, head]
    for command in readme[3:]:
        _expect(shell, command)
    # Last, since two nodes in one temporary folder, as only here, remove one another's files of jobs.
    _expect(shell, join)
    nodes = f"RAY_ADDRESS=127.0.0.1:{shell.ports['6379']} {BIN}/python -m cluster.nodes 2"
    joined = shell.run(f"{nodes} echo all there")
    assert (joined.returncode, joined.stdout) == (0, "all there\n"), joined.stderr


def shell_without_token(shell: Shell, export: str) -> Shell:
    """Return a shell in which nothing but the mode is set."""
    other = Shell(shell.folder, shell.ports)
    other.run(export)
    return other


def _expect(shell: Shell, command: str) -> None:
    done = shell.run(command)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def _expect_job(shell: Shell, command: str) -> None:
    """A head takes jobs only some seconds after it gives its version."""
    deadline = time.monotonic() + 300
    while (done := shell.run(command)).returncode and "No available agent" in done.stdout + done.stderr:
        assert time.monotonic() < deadline, (shell.folder / "log").read_text()
        time.sleep(1)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def _expect_until(shell: Shell, command: str, output: str) -> None:
    deadline = time.monotonic() + 300
    while (done := shell.run(command)).stdout != output:
        assert time.monotonic() < deadline, f"{command}: {done.stdout!r}\n{(shell.folder / 'log').read_text()}"
        time.sleep(1)
