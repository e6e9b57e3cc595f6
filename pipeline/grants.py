"""Turn what a stage asks for into what it gets on the machines at hand, alone or beside an input that it follows.

A stage that follows another shard by shard needs room beside it. Where the first stage's number of workers is left
open, it gets fewer: on CPUs the second gets one worker as long as the first runs (whichever takes longer, then, the
CPUs are busy), on GPUs all of its workers, for up to half of the CPUs. Where there is no room, it starts afterwards.
"""

import dataclasses
from collections.abc import Sequence

from cluster.session import Machines
from pipeline.errors import UsageError
from stages.contract import GrantedResources, StageConfig

ENOUGH_CPUS = 8
"""A single process, or one that feeds a GPU, does not profit from more CPUs than this."""


def grant(section: StageConfig, machines: Machines) -> GrantedResources:
    """Resolve every open or automatic number of the stage's ``resources``.

    Raises:
        UsageError: the stage asks for more than the machines have.
    """
    asked = section.resources
    gpus = asked.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if section.uses_gpu and machines.num_gpus else 0.0
    workers = asked.num_workers or _default_workers(section, machines, gpus)
    cpus = asked.cpus_per_worker or _default_cpus(section, machines, workers, gpus)
    granted = GrantedResources(workers, cpus, gpus)
    _check_fits(section.stage, granted, machines)
    return granted


def leave_room(
    section: StageConfig,
    granted: GrantedResources,
    followers: Sequence[tuple[StageConfig, GrantedResources]],
    machines: Machines,
) -> GrantedResources:
    """Return the grant of a stage with so few workers that those that follow it find room, if their number is open."""
    if section.resources.num_workers is not None:
        return granted
    left = machines.num_cpus
    for follower, wanted in followers:
        room = _room_of(follower, wanted, machines)
        if left - room >= granted.cpus_per_worker:
            left -= room
    return dataclasses.replace(granted, num_workers=min(granted.num_workers, left // granted.cpus_per_worker))


def grant_beside(section: StageConfig, granted: GrantedResources, free: Machines) -> GrantedResources | None:
    """Return what a stage gets beside those that run, with as many workers as fit for now; None: there is no room."""
    cpus, gpus = granted.cpus_per_worker, granted.gpus_per_worker
    if gpus and section.resources.cpus_per_worker is None:
        cpus = max(1, min(cpus, free.num_cpus // granted.num_workers))
    workers = min(granted.num_workers, free.num_cpus // cpus)
    if gpus:
        workers = min(workers, int(free.num_gpus / gpus))
    if workers < 1:
        return None
    return dataclasses.replace(granted, cpus_per_worker=cpus, workers_beside=workers)


def _room_of(section: StageConfig, granted: GrantedResources, machines: Machines) -> int:
    """Return how many CPUs to leave for a stage that follows another."""
    share = max(machines.num_cpus // 2, section.resources.cpus_per_worker or 1)
    if section.resources.num_workers is None and not granted.gpus_per_worker:
        share = granted.cpus_per_worker
    beside = grant_beside(section, granted, dataclasses.replace(machines, num_cpus=share))
    return beside.cpus if beside else 0


def _default_workers(section: StageConfig, machines: Machines, gpus: float) -> int:
    if section.work == "single":
        return 1
    if gpus:
        return max(1, int(machines.num_gpus / gpus))
    if section.work == "training":
        return 1
    return max(1, machines.num_cpus // (section.resources.cpus_per_worker or 1))


def _default_cpus(section: StageConfig, machines: Machines, workers: int, gpus: float) -> int:
    if section.work == "shards" and not gpus:
        return 1
    share = min(machines.num_cpus // workers, machines.node_cpus)
    return max(1, min(share, ENOUGH_CPUS) if gpus or section.work == "single" else share)


def _check_fits(stage: str, granted: GrantedResources, machines: Machines) -> None:
    cpus = granted.num_workers * granted.cpus_per_worker
    if cpus > machines.num_cpus or granted.cpus_per_worker > machines.node_cpus:
        raise UsageError(
            f"{stage}.resources: {granted.num_workers} workers x {granted.cpus_per_worker} CPUs asked for, and the "
            f"machines have {machines.num_cpus} CPUs ({machines.node_cpus} on the largest); lower num_workers or "
            "cpus_per_worker, or add machines"
        )
    gpus = granted.num_workers * granted.gpus_per_worker
    if gpus > machines.num_gpus:
        raise UsageError(
            f"{stage}.resources: {granted.num_workers} workers x {granted.gpus_per_worker:g} GPUs asked for, and the "
            f"machines have {machines.num_gpus} GPUs; lower num_workers or gpus_per_worker, or add machines"
        )
