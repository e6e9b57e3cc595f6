"""Turn what a stage asks for into what it gets on the machines at hand, alone or beside an input that it follows.

A stage that follows another shard by shard needs room beside it. Where the first stage's number of workers is left
open, it gets fewer: on CPUs the second gets one worker as long as the first runs (whichever takes longer, then, the
CPUs are busy), on GPUs all of its workers, for up to half of the CPUs. Where there is no room, it starts afterwards.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from cluster.machines import Machines, room_for
from pipeline.errors import UsageError
from stages.contract.stage import Allocation, StageConfig

_log = logging.getLogger(__name__)
ENOUGH_CPUS = 8
"""A single process, or one that feeds a GPU, does not profit from more CPUs than this."""


def allocate(section: StageConfig, machines: Machines, *, spare_gpu_nodes: bool = False) -> Allocation:
    """Resolve every open or automatic number of the stage's ``resources``.

    ``spare_gpu_nodes``: the nodes that have GPUs are left to other stages, where there are nodes without.
    """
    asked = section.resources
    gpus = asked.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if section.uses_gpu and machines.num_gpus else 0.0
    workers = asked.num_workers or _default_workers(section, machines, gpus, spare_gpu_nodes)
    cpus = asked.cpus_per_worker or _default_cpus(section, machines, workers, gpus)
    allocation = Allocation(
        workers,
        cpus,
        gpus,
        min_workers=min(asked.min_workers, workers),
        wait_for_nodes=asked.wait_for_nodes,
        heartbeat_timeout=asked.heartbeat_timeout,
        stage_timeout=asked.stage_timeout,
        max_tries=asked.max_tries,
        grows=asked.num_workers is None and section.work == "shards",
    )
    allocation = dataclasses.replace(allocation, room_at_first=_room_at_first(allocation, machines))
    _check_fits(section.stage, allocation, machines)
    return allocation


def allocate_all(sections: Sequence[StageConfig], machines: Machines) -> dict[str, Allocation]:
    """Return what each of the stages of one run gets; those without a GPU leave GPU nodes to those with one."""
    first = {section.stage: allocate(section, machines) for section in sections}
    if not any(allocation.gpus_per_worker for allocation in first.values()):
        return first
    return {section.stage: allocate(section, machines, spare_gpu_nodes=True) for section in sections}


def allocate_anew(
    sections: Sequence[StageConfig], before: Mapping[str, Allocation], machines: Machines
) -> dict[str, Allocation]:
    """Return what stages get that have not started yet, as nodes have come or gone; they wait for GPUs that are gone.

    Raises:
        UsageError: the nodes that are left are too few for one of them.
    """
    found = allocate_all(sections, machines)
    kept = {name for name, one in found.items() if before[name].gpus_per_worker and not one.gpus_per_worker}
    for name in sorted(kept):
        _log.warning("%s: the nodes with GPUs are gone: it waits for one, and does not go on without", name)
    return {name: before[name] if name in kept else one for name, one in found.items()}


def leave_room(
    section: StageConfig,
    allocation: Allocation,
    downstream: Sequence[tuple[StageConfig, Allocation]],
    machines: Machines,
) -> Allocation:
    """Return the grant of a stage with so few workers that those that follow it find room, if their number is open."""
    if section.resources.num_workers is not None:
        return allocation
    left = machines.num_cpus
    for follower, wanted in downstream:
        room = _room_of(follower, wanted, machines)
        if left - room >= allocation.cpus_per_worker:
            left -= room
    workers = min(allocation.num_workers, left // allocation.cpus_per_worker)
    return dataclasses.replace(allocation, num_workers=max(1, workers))  # where nodes are gone, it waits for one


def allocate_beside(section: StageConfig, allocation: Allocation, free: Machines) -> Allocation | None:
    """Return what a stage gets beside those that run, with as many workers as fit for now; None: there is no room."""
    cpus, gpus = allocation.cpus_per_worker, allocation.gpus_per_worker
    if gpus and section.resources.cpus_per_worker is None:
        cpus = max(1, min(cpus, free.num_cpus // allocation.num_workers))
    workers = min(allocation.num_workers, free.num_cpus // cpus)
    if gpus:
        workers = min(workers, int(free.num_gpus / gpus))
    if workers < 1:
        return None
    beside = dataclasses.replace(allocation, cpus_per_worker=cpus, workers_beside=workers)
    return dataclasses.replace(beside, room_at_first=_room_at_first(beside, free))


def _room_at_first(allocation: Allocation, machines: Machines) -> int | None:
    if not allocation.grows or not machines.nodes:
        return None
    return room_for(machines.nodes, allocation.cpus_per_worker, allocation.gpus_per_worker)


def _room_of(section: StageConfig, allocation: Allocation, machines: Machines) -> int:
    """Return how many CPUs to leave for a stage that follows another."""
    fraction = max(machines.num_cpus // 2, section.resources.cpus_per_worker or 1)
    if section.resources.num_workers is None and not allocation.gpus_per_worker:
        fraction = allocation.cpus_per_worker
    beside = allocate_beside(section, allocation, dataclasses.replace(machines, num_cpus=fraction))
    return beside.cpus if beside else 0


def _default_workers(section: StageConfig, machines: Machines, gpus: float, spare_gpu_nodes: bool) -> int:
    if section.work == "single":
        return 1
    if gpus:
        return section.usable_workers(max(1, int(machines.num_gpus / gpus)))
    if section.work == "training":
        return 1
    cpus = machines.cpus_without_gpus if spare_gpu_nodes else machines.num_cpus
    each = section.resources.cpus_per_worker or _default_cpus(section, machines, 1, 0)
    return max(1, min(cpus // each, machines.holds(each, 0) or 1))


def _default_cpus(section: StageConfig, machines: Machines, workers: int, gpus: float) -> int:
    if section.work == "shards" and not gpus:
        return max(1, min(section.cpus_for_each_model, machines.node_cpus, machines.num_cpus // workers))
    fraction = min(machines.num_cpus // workers, machines.cpus_beside(gpus) if gpus else machines.node_cpus)
    return max(1, min(fraction, ENOUGH_CPUS) if gpus or section.work == "single" else fraction)


def describe_demand(allocation: Allocation) -> str:
    """Return what a stage asks of the cluster, in words."""
    gpus = f" + {allocation.gpus_per_worker:g} GPU" if allocation.gpus_per_worker else ""
    return f"{allocation.num_workers} x {allocation.cpus_per_worker} CPU{gpus}"


def _check_fits(stage: str, allocation: Allocation, machines: Machines) -> None:
    cpus = allocation.num_workers * allocation.cpus_per_worker
    scaled = " at most, with all that its autoscaler may bring" if machines.declared else ""
    if cpus > machines.cpus_in_the_end or not machines.holds(allocation.cpus_per_worker, 0):
        raise UsageError(
            f"{stage}.resources: {allocation.num_workers} workers x {allocation.cpus_per_worker} CPUs asked for, and "
            f"the machines have {machines.cpus_in_the_end} CPUs ({machines.node_cpus} on the largest){scaled}; lower "
            "num_workers or cpus_per_worker, or add machines"
        )
    gpus = allocation.num_workers * allocation.gpus_per_worker
    if gpus > machines.gpus_in_the_end:
        raise UsageError(
            f"{stage}.resources: {allocation.num_workers} workers x {allocation.gpus_per_worker:g} GPUs asked for, and "
            f"the machines have {machines.gpus_in_the_end:g} GPUs{scaled}; lower num_workers or gpus_per_worker, or "
            "add machines"
        )
    room = machines.holds(allocation.cpus_per_worker, allocation.gpus_per_worker)
    if room < allocation.num_workers:
        raise UsageError(
            f"{stage}.resources: {describe_demand(allocation)} asked for, and the nodes have room for {room} such "
            f"workers, each on one node{scaled}; lower num_workers, cpus_per_worker or gpus_per_worker, or add machines"
        )
