"""A cluster that does not come is reported in time; test_cluster_commands.py waits for one that does."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.errors import NotStarted
from cluster.nodes import wait_for_nodes

ROOT = Path(__file__).resolve().parents[3]


def test_nodes_that_do_not_come_are_reported_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(NotStarted, match=r"at '127.0.0.1:1' is not complete after 1 s \(nothing responds\): read"):
        wait_for_nodes("127.0.0.1:1", 2, seconds=1)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("words", [[], ["two"], ["²"]])
def test_the_command_needs_the_number_of_nodes(words: list[str]) -> None:
    command = [sys.executable, "-m", "cluster.nodes", *words]
    done = subprocess.run(command, cwd=ROOT, env={"RAY_ADDRESS": "x:1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "cluster.nodes: give the number of nodes to wait for, and the cluster's address in RAY_ADDRESS\n"
    )
