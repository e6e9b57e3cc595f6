"""A group of training processes, and how one is started in this process; under Ray Train: :mod:`cluster.ray_train`."""

import ctypes
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.rank_link import forget_requests
from cluster.variables import restored

_LAUNCHED = frozenset(
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE",
     "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "NODE_RANK", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT",
     "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS")
)  # fmt: skip
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_KEPT, _NEVER = 1 << 30, (1 << 31) - 1  # bytes
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_SPINS = 3000  # some microseconds
_LAUNCHERS = ("OMPI_COMM_WORLD_", "PMI_", "PMIX_", "MPI_LOCAL", "MV2_COMM_WORLD_", "TORCHELASTIC_")

TrainFunction = Callable[[Any, Callable[[Any], None]], Any]


@dataclass(frozen=True)
class TrainGroup:
    """How many training processes to start, the resources of each, and when to give up restarting them."""

    num_workers: int = 1
    num_cpus: int = 1
    num_gpus: float = 0
    restarts: int = 2
    """How often to start again, after a process was lost, without getting any further than before."""
    smaller: tuple[int, ...] = ()
    """Numbers of workers to take where the living nodes have no room for all, the largest first."""
    wait_for_nodes: float = 60.0
    """Seconds to wait for nodes that are missing before taking fewer."""
    heartbeat_timeout: float = 30.0
    """Seconds without a sign of life after which a process is reported."""
    stage_timeout: float = 3600.0
    """Seconds without a step or report after which the processes are replaced."""


class TrainLauncher(Protocol):
    """Run ``function(payload, emit)`` in every process of a training group and wait for all of them.

    There, RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set, so that DeepSpeed or torch can form
    the process group. ``emit`` sends an event to the caller's ``emit``. The return value is rank 0's.
    """

    def __call__(
        self,
        function: TrainFunction,
        payload: Any,
        group: TrainGroup,
        emit: Callable[[Any], None],
        progress: Callable[[], int] = lambda: 0,
    ) -> Any:
        """Return what rank 0 returned; raise what any rank raised.

        ``progress`` returns how far the function would start, such as the step of the newest checkpoint. The function
        is expected to end early where :func:`cluster.rank_link.end_is_requested`.
        """
        ...


def launch_in_process(
    function: TrainFunction,
    payload: Any,
    group: TrainGroup,
    emit: Callable[[Any], None],
    progress: Callable[[], int] = lambda: 0,
) -> Any:
    """Train in this process, as a group of one: for unit tests and debugging.

    Its environment variables are given back: a group of several that this process starts later, on addresses that
    others reach, would take loopback for its interface and count itself complete.
    """
    if group.num_workers != 1:
        raise ValueError(
            f"cluster.training: found {group.num_workers} workers: training in this process allows 1: "
            "start the group with cluster.ray_train.launch_with_ray_train instead"
        )
    with restored({*_launched(), *_LAUNCHED, *_INTERFACES, "DS_ACCELERATOR"}):
        forget_launchers()
        forget_requests()
        os.environ.update(rank_environment(0, 1, 0, "127.0.0.1", free_port()))
        return function(payload, emit)


def rank_environment(rank: int, world_size: int, local_rank: int, address: str, port: int) -> dict[str, str]:
    """Return the environment variables from which torch.distributed forms its group."""
    values = {
        "RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": local_rank, "MASTER_ADDR": address, "MASTER_PORT": port
    }  # fmt: skip
    return {name: str(value) for name, value in values.items()}


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has an address of this machine."""
    import psutil

    found = psutil.net_if_addrs().items()
    return next((name for name, addresses in found if any(one.address == address for one in addresses)), None)


def use_interface_of(address: str) -> None:
    """Let gloo and NCCL use the interface that has this address, unless the environment names another.

    By themselves they take the one that the host's name resolves to, which may be loopback, or a network that the other
    nodes do not reach. Loopback is never taken for an address of a network, whatever the environment says: it was set
    for groups on one machine, and no other node is reached by it.
    """
    interface = interface_of(address)
    if interface is None:
        return
    for name in _INTERFACES:
        if name not in os.environ or is_loopback(os.environ[name]):
            os.environ[name] = interface


def is_loopback(interface: str) -> bool:
    """Return whether an interface is the one by which a machine reaches itself alone."""
    return interface == interface_of("127.0.0.1")


def free_port(address: str = "127.0.0.1") -> int:
    """Return a free TCP port of an address of this machine."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def forget_launchers() -> None:
    """Take out of the environment what another launcher (MPI, SLURM, torchrun) says of this process and its group.

    DeepSpeed, torch and others would believe it, though Ray starts the processes of a group and numbers them.
    """
    for name in _launched():
        del os.environ[name]


def _launched() -> list[str]:
    return [name for name in os.environ if name in _LAUNCHED or name.startswith(_LAUNCHERS)]


def let_threads_sleep() -> None:
    """Let OpenMP's threads sleep soon while they wait, in libraries loaded later; by default they spin for long.

    Where others want the processors too, spinning threads take them from the one that is waited for: on two processors
    a step of the quickstart's decoder took 1.7 s beside two more of its kind, 0.75 s with threads that sleep at once,
    0.87 s with the short spin. Alone it took 264 ms, 320 ms and 277 ms.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    if sys.platform == "linux":  # whose torch brings GNU's OpenMP
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds, in builds with LLVM's or Intel's
    else:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def keep_freed_memory() -> None:
    """Let the C library keep what tensors free for the next ones (glibc can).

    By default it gives large blocks back to the system at once, and gets them again page by page: on two processors a
    training step of the quickstart's decoder spent 10 % of its time so (median of 8 pairs), on 10,000 page faults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def use_cpus(count: int) -> None:
    """Limit this process to the compute threads that Ray gave it: in libraries loaded later, and in torch if it is."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    let_threads_sleep()
    keep_freed_memory()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
