"""What goes wrong before there is a Ray to work with is reported in a sentence."""

import subprocess
import sys

WORDS = "from cluster.session import session\nwith session(None, num_cpus=-1): pass"


def test_a_ray_that_does_not_start_is_reported() -> None:
    """In a process of its own, with which all ends that Ray has started half."""
    done = subprocess.run([sys.executable, "-c", WORDS], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("cluster.errors.NotStarted: cluster: Ray did not start on this machine (")
    assert "run the same command again; finished work is kept" in last
