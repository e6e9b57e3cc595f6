"""A group of training processes, and how one is started in this process; under Ray Train: :mod:`cluster.ray_train`."""

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

TrainFunction = Callable[[Any, Callable[[Any], None]], Any]


@dataclass(frozen=True)
class TrainGroup:
    """How many training processes to start, the resources of each, and how often to restart all when one is lost."""

    num_workers: int = 1
    num_cpus: int = 1
    num_gpus: float = 0
    restarts: int = 2


class TrainLauncher(Protocol):
    """Run ``function(payload, emit)`` in every process of a training group and wait for all of them.

    There, RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set, so that DeepSpeed or torch can form
    the process group. ``emit`` sends an event to the caller's ``emit``. The return value is rank 0's.
    """

    def __call__(self, function: TrainFunction, payload: Any, group: TrainGroup, emit: Callable[[Any], None]) -> Any:
        """Return what rank 0 returned; raise what any rank raised."""
        ...


def launch_in_process(function: TrainFunction, payload: Any, group: TrainGroup, emit: Callable[[Any], None]) -> Any:
    """Train in this process, as a group of one: for unit tests and debugging."""
    if group.num_workers != 1:
        raise ValueError(
            f"cluster.training: found {group.num_workers} workers: training in this process allows 1: "
            "start the group with cluster.ray_train.launch_with_ray_train instead"
        )
    os.environ.update(rank_environment(0, 1, 0, "127.0.0.1", free_port()))
    return function(payload, emit)


def rank_environment(rank: int, world_size: int, local_rank: int, address: str, port: int) -> dict[str, str]:
    """Return the environment variables from which torch.distributed forms its group."""
    values = {
        "RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": local_rank, "MASTER_ADDR": address, "MASTER_PORT": port
    }  # fmt: skip
    return {name: str(value) for name, value in values.items()}


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def use_cpus(count: int) -> None:
    """Limit this process to the compute threads that Ray gave it: in libraries loaded later, and in torch if it is."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
