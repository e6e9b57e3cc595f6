"""What goes wrong before there is a Ray to work with is reported in a sentence."""

import socket
import subprocess
import sys

import pytest

from cluster.errors import Unreachable
from cluster.session import check_reachable

WORDS = "from cluster.session import session\nwith session(None, num_cpus=-1): pass"


def test_a_ray_that_does_not_start_is_reported() -> None:
    """In a process of its own, with which all ends that Ray has started half."""
    done = subprocess.run([sys.executable, "-c", WORDS], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("cluster.errors.NotStarted: cluster: Ray did not start on this machine (")
    assert "run the same command again; finished work is kept" in last


@pytest.mark.parametrize(
    "address", ["a" * 300 + ":80", "\udcff:80", "127.0.0.1:99999999999999999999", "x:" + "9" * 5000]
)
def test_addresses_that_no_cluster_can_have_are_reported(address: str) -> None:
    with pytest.raises(Unreachable, match=r"^cluster.address: no Ray cluster responds at '.*' \(.*\): start one"):
        check_reachable(address)


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:²", ":80"])
def test_what_names_no_port_is_left_to_ray(address: str) -> None:
    check_reachable(address)


def test_an_address_of_version_6_is_reached() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        check_reachable(f"[::1]:{server.getsockname()[1]}")
