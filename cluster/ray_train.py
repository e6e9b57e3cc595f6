"""Run a training group under Ray Train, with as little start-up time as possible.

Ray Train's own torch trainer imports torch in the controller and forms the process group before the function runs; here
the controller does not import torch, and DeepSpeed forms the group. Measured by benchmarks/training_startup.py.
"""

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError

from cluster.channel import Channel, Sender
from cluster.errors import TrainingLost
from cluster.losses import MemoryKills, StartsInVain, describe_loss
from cluster.lost_ranks import is_communication_error, room_on_nodes, size_that_fits, wait_for_dead_nodes
from cluster.metrics import count
from cluster.placement import remove_abandoned_groups
from cluster.rank_link import END, linked
from cluster.rank_signs import RankSigns
from cluster.training import (
    TrainFunction,
    TrainGroup,
    forget_launchers,
    free_port,
    rank_environment,
    use_cpus,
    use_interface_of,
)
from cluster.workers import Report, Reporter, machine_name

POLL_SECONDS = 0.1
CHECK_SECONDS = 0.5  # between two looks at what the ranks say of themselves
MAX_REPORT = 400  # characters of Ray Train's own report
ROOM_SECONDS = 60.0  # of waiting for what others hold, after which it is said, and looked at anew how many have room
DEATH_SECONDS = 10.0  # for Ray to note that a controller is dead whose call has failed
SHORTEST_WAIT = 1.0  # for Ray to place a group where there is room
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_log = logging.getLogger(__name__)
_QUIET = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # as CHECK_SECONDS: each check costs a call to every worker
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # a stopped process, or one on a node that is cut off
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one more actor; the health check notices a lost node as well
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


class GroupBackendConfig(BackendConfig):  # type: ignore[misc]  # ray is not typed here
    """Lets Ray Train set the rank variables and nothing else."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend of this configuration."""
        return GroupBackend


class GroupBackend(Backend):  # type: ignore[misc]
    """Sets the rank and the address of rank 0 in every worker."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Set the variables in all workers."""
        address, port = worker_group.execute_single(0, _address_and_port)
        worker_group.execute(_set_rank, address, port)


def _address_and_port() -> tuple[str, int]:
    address = ray.util.get_node_ip_address()
    return address, free_port(address)


def _set_rank(address: str, port: int) -> None:
    forget_launchers()
    context = get_context()
    rank, world_size, local_rank = context.get_world_rank(), context.get_world_size(), context.get_local_rank()
    os.environ.update(rank_environment(rank, world_size, local_rank, address, port))
    if world_size > 1:
        use_interface_of(ray.util.get_node_ip_address())


def launch_with_ray_train(
    function: TrainFunction,
    payload: Any,
    group: TrainGroup,
    emit: Callable[[Any], None],
    progress: Callable[[], int] = lambda: 0,
    *,
    ending: Callable[[], bool] = lambda: False,
    report: Report = lambda machines: None,
) -> Any:
    """Train under Ray Train, on the cluster that this process is connected to, and return rank 0's result.

    A group that loses a process (out of memory, a lost node) is restarted, as long as each start gets further: the
    function is expected to go on from its newest checkpoint. Where the living nodes have no room for all workers, at
    the first start or later, it goes on with fewer after ``group.wait_for_nodes`` seconds. Once ``ending`` returns
    true, the function is asked to end early. ``report`` gets to know on which machines the processes are.

    Raises:
        Exception: what a worker raised, at once, with the worker's traceback as a note.
        TrainingLost: the group lost a process again and again without getting further.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    starts, in_vain, size = 1, StartsInVain(progress()), _first_size(group)
    while True:
        started = replace(group, num_workers=size)
        _set_start_timeout(started)
        with contextlib.closing(Reporter(report)) as reporter:
            outcome = _run_once((function, payload), started, emit, ending, reporter)
        if "failure" in outcome:
            raise outcome["failure"]
        if "error" not in outcome:
            return outcome["result"].return_value
        if outcome["is_without_room"]:
            remove_abandoned_groups(0.0)
            size = _size_with_room(group, size)
            continue
        reason = describe_loss(outcome.get("lost") or outcome["error"], is_memory=outcome["is_memory"])
        if in_vain.note(progress()) > group.restarts:
            raise TrainingLost(
                f"training: the group lost a process (start {starts}: {reason[:MAX_REPORT]}): check that the machines "
                "have enough memory and reach one another, then run again: it goes on from the newest checkpoint"
            )
        starts += 1
        count("corgi_training_restarts")
        _log.warning("a training process was lost (%s); starting the group again", reason[:MAX_REPORT])
        wait_for_dead_nodes(outcome["nodes"])
        remove_abandoned_groups(DEATH_SECONDS if outcome["is_controller_lost"] else 0.0)
        size = _first_size(group)


def _first_size(group: TrainGroup) -> int:
    """Return with how many workers to try: all, as nodes may be on their way, unless none are waited for."""
    return group.num_workers if group.wait_for_nodes else size_that_fits(group)


def _set_start_timeout(group: TrainGroup) -> None:
    """Let Ray Train wait so long for a place for the group: for what others hold, or for nodes that are missing.

    Its own retries are off, as it would wait for a group of this size for ever. While it waits, the group is asked for,
    which is what an autoscaler acts upon.
    """
    is_short = room_on_nodes(group) < group.num_workers
    seconds = group.wait_for_nodes if is_short and group.smaller else ROOM_SECONDS
    os.environ[START_TIMEOUT] = str(max(seconds, SHORTEST_WAIT))


def _size_with_room(group: TrainGroup, size: int) -> int:
    """Return the size to try next, after there was no room for ``size``, and say what is waited for."""
    fitting = size_that_fits(group)
    if fitting < group.num_workers:
        _log.warning("there is no room for %d training processes: going on with %d", group.num_workers, fitting)
    else:
        _log.warning("there is no room for %d training processes of %g CPUs and %g GPUs now: waiting for it",
                     size, group.num_cpus, group.num_gpus)  # fmt: skip
    return fitting


def _run_once(
    work: tuple[TrainFunction, Any],
    group: TrainGroup,
    emit: Callable[[Any], None],
    ending: Callable[[], bool],
    reporter: Reporter,
) -> dict[str, Any]:
    """Run one group to its end; ``work`` is the function and its payload.

    The outcome holds "failure" (the function's own), "error" (Ray Train's) or "result"; "nodes" where it ran; "lost":
    what a worker raised because it could not reach another one; "is_without_room": nothing ran.
    """
    channel = Channel()
    signs = RankSigns(group, channel, MemoryKills(ray.get_runtime_context().get_node_id()))
    outcome: dict[str, Any] = {"nodes": set()}
    next_check = 0.0
    # Among Ray's own files, so that it goes with them where this process is killed.
    with tempfile.TemporaryDirectory(prefix="corgi-train-", dir=node_folder()) as scratch:
        trainer = _trainer(work, group, channel.sender("worker"), scratch)
        fitting = threading.Thread(target=_fit, args=(trainer, outcome), daemon=True)
        fitting.start()
        while True:
            running = fitting.is_alive()  # before collecting, so that the last messages are not missed
            for _, (kind, value) in channel.collect():
                _take_in(kind, value, outcome, signs, emit)
            if not running:
                outcome["is_memory"] = any([signs.memory.has_killed(node) for node in outcome["nodes"]])
                return outcome
            if time.monotonic() >= next_check:
                next_check = time.monotonic() + CHECK_SECONDS
                signs.check()
                reporter.note(signs.machines())
                if ending():
                    channel.post(END, True)
            fitting.join(POLL_SECONDS)


def node_folder() -> str:
    """Return the folder of Ray's files on this node."""
    from ray._private.worker import global_worker

    return str(global_worker.node.get_session_dir_path())


def _take_in(kind: str, value: Any, outcome: dict[str, Any], signs: RankSigns, emit: Callable[[Any], None]) -> None:
    """Take in a message of a worker."""
    match kind:
        case "event":
            emit(value)
        case "node":
            outcome["nodes"].add(value)
        case "sign":
            signs.note(value)
        case "stack":
            signs.note_stack(*value)
        case _:
            outcome.setdefault(kind, value)


def _fit(trainer: DataParallelTrainer, outcome: dict[str, Any]) -> None:
    """Run the group in a thread of its own.

    Of an error only the message is kept: its traceback would keep the controller and the group's resources alive.
    """
    try:
        outcome["result"] = trainer.fit()
    except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
        outcome["error"] = " ".join(str(error).split()) or type(error).__name__
        cause = error.controller_failure if isinstance(error, ControllerError) else None
        outcome["is_without_room"] = isinstance(cause, WorkerGroupStartupTimeoutError)
        outcome["is_controller_lost"] = isinstance(error, RayActorError)


class _Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray Train without three actors whose imports would slow down the workers'.

    One hands out Ray's own datasets; what the second one does is done by :mod:`cluster.placement`; for the third see
    :class:`_GroupsOwnDemand`.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = DatasetsCallback | PlacementGroupCleanerCallback
        return [each for each in super()._create_default_callbacks() if not isinstance(each, unused)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        return super()._initialize_and_run_controller(
            **parts | {"scaling_policy": _GroupsOwnDemand(self.scaling_config)}
        )


class _GroupsOwnDemand(FixedScalingPolicy):  # type: ignore[misc]
    """A fixed number of workers, asked for by their placement group alone, which an autoscaler sees while it waits.

    Ray Train's own policy also asks an actor that divides nodes between it and Ray's own datasets. It starts no worker
    before that one has imported these, and leaves it on the cluster at the end.
    """

    def _send_resource_request(self) -> None: ...

    def _maybe_send_resource_request(self) -> None: ...

    def _cancel_resource_request(self) -> None: ...


def _trainer(work: tuple[TrainFunction, Any], group: TrainGroup, send: Sender, scratch: str) -> DataParallelTrainer:
    resources = {"CPU": float(group.num_cpus)} | ({"GPU": float(group.num_gpus)} if group.num_gpus else {})
    reference = ray.put(work)  # a reference: the controller reads its arguments too, and needs no torch
    return _Trainer(
        _in_worker,
        train_loop_config={"work": reference, "num_cpus": group.num_cpus, "send": send},
        backend_config=GroupBackendConfig(),
        scaling_config=ScalingConfig(
            num_workers=group.num_workers, use_gpu=group.num_gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="group",
            storage_path=scratch,
            # Else the function's own exceptions would restart it, and a start without room be tried for ever.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
        ),
    )


def _in_worker(config: dict[str, Any]) -> Any:
    """Run the function in a worker; its exception goes to the caller, with the worker's traceback as a note."""
    use_cpus(config["num_cpus"])
    send: Sender = config["send"]
    node = ray.get_runtime_context().get_node_id()
    send(("node", node))

    def emit(event: Any) -> None:
        send(("event", event))

    try:
        machine = machine_name(ray.util.get_node_ip_address())
        with linked(send, get_context().get_world_rank(), node, machine):
            function, payload = ray.get(config["work"])
            return function(payload, emit)
    except Exception as error:
        import traceback

        if is_communication_error(error):
            send(("lost", f"{type(error).__name__}: {' '.join(str(error).split())}"))
        else:
            error.add_note("In the training worker:\n" + traceback.format_exc())
            send(("failure", error))
        raise
    finally:
        send.flush()
