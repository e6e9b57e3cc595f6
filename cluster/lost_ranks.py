"""After a training group has lost a process: what was lost, and how many workers there is room for now."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.training import TrainGroup

_REPLY_SECONDS = 15.0  # for a node to run an empty task
_DEATH_SECONDS = 120.0  # for Ray to declare a node dead that runs no task: its own default takes up to a minute
_POLL_SECONDS = 1.0
_LIBRARIES = ("gloo", "nccl", "processgroup", "tcpstore")  # in messages of torch's plain RuntimeErrors
_log = logging.getLogger(__name__)


def is_communication_error(error: BaseException) -> bool:
    """Return whether a rank's error means that it could not reach the others, and says nothing of its own work.

    The libraries under torch.distributed raise plain RuntimeErrors, which only their messages tell from others. An
    error that is raised on purpose (its class has ``is_on_purpose``) is none, whatever it comes of: where a store or a
    source was away, the connection to that was lost, and starting the group again would only wait for it again.
    """
    chain = list(_chain(error))
    if any(getattr(one, "is_on_purpose", False) for one in chain):
        return False
    torch = sys.modules.get("torch")
    known: tuple[type[BaseException], ...] = (ConnectionError,)
    if torch is not None:
        known += (torch.distributed.DistError,)
    return any(
        isinstance(one, known) or (type(one) is RuntimeError and any(name in str(one).lower() for name in _LIBRARIES))
        for one in chain
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def wait_for_dead_nodes(nodes: Iterable[str]) -> None:
    """Wait until Ray has declared those nodes dead that run no task any more, so that nothing is placed on them."""
    calls = {_empty_task(node): node for node in nodes if node in _alive()}
    if not calls:
        return
    ready, silent = ray.wait(list(calls), num_returns=len(calls), timeout=_REPLY_SECONDS)
    silent_nodes = {calls[call] for call in [*silent, *(call for call in ready if not _succeeded(call))]}
    until = time.monotonic() + _DEATH_SECONDS
    while silent_nodes & _alive() and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)


def size_that_fits(group: TrainGroup) -> int:
    """Return with how many workers to start: all where the living nodes could hold them, else the most that they can.

    Where they could not hold even the fewest, it is all again: asking for them is what an autoscaler acts upon.
    """
    room = room_on_nodes(group)
    fitting = [size for size in (group.num_workers, *group.smaller) if size <= room]
    return fitting[0] if fitting else group.num_workers


def room_on_nodes(group: TrainGroup) -> int:
    """Return how many workers the living nodes could hold if nothing else ran on them."""
    room = 0
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        held = node["Resources"]
        fits = [int(held.get("CPU", 0) // group.num_cpus)] if group.num_cpus else []
        fits += [int(held.get("GPU", 0) / group.num_gpus)] if group.num_gpus else []
        room += min(fits, default=group.num_workers)
    return room


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _empty_task(node: str) -> "ray.ObjectRef[None]":
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, scheduling_strategy=strategy, max_retries=0)(_nothing)
    return task.remote()


def _nothing() -> None:
    """Show that the node runs tasks."""


def _succeeded(call: "ray.ObjectRef[None]") -> bool:
    try:
        ray.get(call, timeout=0)
    except (RayError, GetTimeoutError):
        return False
    return True
