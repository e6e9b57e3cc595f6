"""What a training process does with its threads, and with the memory that it frees."""

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from cluster.training import TrainGroup, launch_in_process, let_threads_sleep, use_interface_of


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Give back what the functions under test set, also where a variable was not there before."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_threads_sleep_soon_while_they_wait_unless_the_environment_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> tuple[str | None, str | None]:
        return os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT")

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    let_threads_sleep()
    assert found() == ((None, "3000") if sys.platform == "linux" else ("PASSIVE", None))
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    let_threads_sleep()
    assert found() == ((None, "5") if sys.platform == "linux" else ("PASSIVE", "5"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    let_threads_sleep()
    assert found() == ("ACTIVE", None)


TWENTY_TENSORS = """
import resource, sys
import torch
from cluster.training import use_cpus
if sys.argv[1] == "kept":
    use_cpus(2)
for _ in range(5):
    torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    """In processes of their own, since nothing gives a process its usual ways back."""

    def page_faults(kept: str) -> int:
        command = [sys.executable, "-c", TWENTY_TENSORS, kept]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    assert 2 * page_faults("kept") < page_faults("usual")


def test_a_group_talks_by_the_interface_of_its_nodes_address(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    use_interface_of("192.0.2.1")  # reserved for documentation: no machine has it
    assert not any(name in os.environ for name in names)
    use_interface_of("127.0.0.1")
    assert [os.environ[name] for name in names] == [loopback, loopback]
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "other0")
    use_interface_of("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "other0"


def test_a_group_over_a_network_never_talks_by_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(name, one.address) for name, many in psutil.net_if_addrs().items() for one in many]
    network = next((one for one in found if "." in one[1] and not one[1].startswith("127.")), None)
    if network is None:
        pytest.skip("this machine has no network")
    loopback = next(name for name, address in found if address == "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", loopback)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=other0")  # a choice of the user
    use_interface_of(network[1])
    assert os.environ["GLOO_SOCKET_IFNAME"] == network[0]
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=other0"


def test_training_in_this_process_leaves_its_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a group of one sets would have a group over several nodes, which this process starts later, use loopback."""
    monkeypatch.setenv("SLURM_PROCID", "3")  # said of this process by who started it
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "other0")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    before = dict(os.environ)

    def train(payload: object, emit: object) -> str:
        assert "SLURM_PROCID" not in os.environ
        assert os.environ["WORLD_SIZE"] == "1"
        os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "DS_ACCELERATOR": "cpu"}
        if payload == "fails":
            raise ValueError("as asked")
        return "trained"

    assert launch_in_process(train, None, TrainGroup(), print) == "trained"
    assert dict(os.environ) == before
    with pytest.raises(ValueError, match="as asked"):
        launch_in_process(train, "fails", TrainGroup(), print)
    assert dict(os.environ) == before
