"""Several raylets, each a node of its own: what happens when one of them dies, or a process on it stops."""

import copy
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import WorkerCrashedError

from cluster.channel import Channel
from cluster.mapping import Growing, WorkerResources
from cluster.pool import map_on_ray
from cluster.ray_train import launch_with_ray_train
from cluster.task_signs import TaskLimits, TaskWatchdog
from cluster.training import TrainGroup
from stages.contract.events import Event, Metrics
from stages.contract.stage import Allocation, StageContext
from stages.formats.model_folders import load_model_state
from stages.storage.artifact import Output
from stages.training.config import TrainingConfig
from stages.training.launch import train
from tests.live import command_of, descendants
from tests.pool_workers import make_slow, meet_or_hold, stand_giving_signs, start_together
from tests.unit.stages.training.line import LineTask


def test_items_of_a_lost_node_and_of_a_stopped_process_go_to_the_workers_that_are_left(nodes: Cluster) -> None:
    added = [nodes.add_node(num_cpus=1) for _ in range(3)]
    done: list[tuple[int, int, str]] = []
    num_given = 0
    stopped = removed = None

    def arriving() -> Iterator[list[int]]:
        """Items without end until the two workers are lost, however late the last worker starts; then 15 more."""
        nonlocal num_given
        while removed is None:
            num_new = max(0, len(done) + 6 - num_given)
            num_given += num_new
            yield list(range(num_given - num_new, num_given))
        yield list(range(num_given, num_given + 15))
        num_given += 15

    resources = WorkerResources(num_workers=3, heartbeat_timeout=6.0)
    for result in map_on_ray(partial(make_slow, 0.5), Growing(arriving()), resources):
        done.append(result)
        if stopped is None and len({pid for _, pid, _ in done}) == 3:
            stopped = result[1]
            os.kill(stopped, signal.SIGSTOP)
            removed = next(node for node in added if node.node_id not in {result[2]})
            nodes.remove_node(removed, allow_graceful=False)
            lost_at = time.monotonic()
    assert sorted(item for item, _, _ in done) == list(range(num_given))
    assert time.monotonic() - lost_at < 300  # without an end, were the lost ones waited for
    assert removed is not None
    last_five = {(pid, node) for _, pid, node in done[-5:]}
    assert all(pid != stopped and node != removed.node_id for pid, node in last_five)
    for node in set(added) - {removed}:
        nodes.remove_node(node, allow_graceful=False)


def test_workers_that_wait_for_items_on_a_node_that_is_lost_are_given_none(
    nodes: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each item may be tried once, so that none may be given to a worker that is gone."""
    kept, lost = (nodes.add_node(num_cpus=2) for _ in range(2))
    done: list[int] = []

    def num_missed() -> int:
        return sum("a worker was lost while it waited" in message for message in caplog.messages)

    def come() -> Iterator[list[str]]:
        yield [f"{index}" for index in range(4)]
        while len(done) < 4:
            yield []
        nodes.remove_node(lost, allow_graceful=False)
        until = time.monotonic() + 100
        while num_missed() < 2 and time.monotonic() < until:
            yield []
        yield [f"{index}" for index in range(4, 10)]

    resources = WorkerResources(num_workers=4, heartbeat_timeout=400.0, max_tries=1)
    for worker in map_on_ray(lambda: partial(meet_or_hold, tmp_path, 4), Growing(come()), resources):
        done.append(worker)
    assert len(done) == 10
    assert len(set(done)) == 4
    assert num_missed() == 2
    nodes.remove_node(kept, allow_graceful=False)


def test_a_node_that_is_lost_while_its_workers_start_leaves_the_others_alone(
    nodes: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes as many as may be lost one after another, and counts as one; none is ready anywhere yet."""
    kept, lost = nodes.add_node(num_cpus=1), nodes.add_node(num_cpus=3)

    def await_that(holds: Callable[[], bool], seconds: float) -> Iterator[list[int]]:
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until
            yield []

    def come() -> Iterator[list[int]]:
        yield from await_that(lambda: len(list(tmp_path.glob("waits-*"))) == 4, 120)
        since = time.monotonic()
        yield from await_that(lambda: time.monotonic() > since + 5, 60)  # each gives a sign of life
        nodes.remove_node(lost, allow_graceful=False)
        yield from await_that(lambda: sum("a worker was lost while it started" in m for m in caplog.messages) == 3, 120)
        (tmp_path / "go").touch()
        yield [-1, -2]

    resources = WorkerResources(num_workers=4, heartbeat_timeout=400.0)
    assert sorted(map_on_ray(partial(start_together, tmp_path), Growing(come()), resources)) == [1, 2]
    nodes.remove_node(kept, allow_graceful=False)


def _kill_process(title: str) -> None:
    """Kill a process of this test's cluster, as the system does that is out of memory."""
    for one in _processes(title):
        one.kill()
        one.wait(30)


def _processes(title: str) -> list[psutil.Process]:
    return [one for one in descendants() if "".join(command_of(one)[:1]).startswith(title)]


def test_a_mailbox_whose_process_is_lost_is_replaced_with_its_board(nodes: Cluster) -> None:
    channel = Channel()
    sender = channel.sender("embed_clip")
    channel.post("download_shards", "done")
    sender("before")
    sender.flush()
    assert channel.collect() == [("embed_clip", "before")]
    for after in ("after one", "after its replacement"):
        _kill_process("ray::_Mailbox")  # Ray would keep its name; after ray.kill it does not
        sender(after)
        assert channel.collect() == []  # the driver starts another one
        sender.flush()  # and the sender finds it, and sends its last message again
        assert channel.collect() == [("embed_clip", after)]
        assert sender.poll("download_shards") == "done"


def test_a_mailbox_that_stands_still_is_replaced(nodes: Cluster) -> None:
    channel = Channel(reply_seconds=20.0)
    sender = channel.sender("embed_clip")
    channel.post("download_shards", "done")
    sender("before")
    sender.flush()
    max(_processes("ray::_Mailbox"), key=lambda one: one.create_time()).suspend()
    assert channel.collect() == []
    sender("after")
    sender.flush()
    assert channel.collect() == [("embed_clip", "after")]
    assert sender.poll("download_shards") == "done"


@pytest.mark.parametrize("how", ["stops", "hangs", "computes", "waits"])
def test_a_stage_process_that_stands_still_is_reported_and_ended(nodes: Cluster, tmp_path: Path, how: str) -> None:
    """One that computes or waits without a word is let alone."""
    os.mkfifo(tmp_path / "fifo")
    times = {"stops": (5.0, 15.0), "hangs": (10.0, 12.0)}  # of a busy machine, far enough apart
    limits = TaskLimits(*times.get(how, (6.0, 7.0)))
    channel, watchdog = Channel(), TaskWatchdog()
    reports: list[tuple[str, str]] = []
    task = ray.remote(stand_giving_signs).options(num_cpus=0, max_retries=0)
    ref = task.remote(channel.sender("stage"), limits, how, tmp_path / "fifo")
    watchdog.begin("stage", limits, lambda message, stack: reports.append((message, stack)))
    until = time.monotonic() + 240
    while not ray.wait([ref], timeout=0.1)[0]:
        for name, sign in channel.collect():
            watchdog.note(name, sign)
        watchdog.check()
        assert time.monotonic() < until, reports
    if how in ("computes", "waits"):
        assert ray.get(ref) == how
        assert reports == []
        return
    with pytest.raises(WorkerCrashedError):
        ray.get(ref)
    (noticed, first_stack), (ended, stack) = reports
    assert ("no sign of life for" if how == "stops" else "hangs in one call for") in noticed
    assert re.search(r"stands still for \d+ s \(resources.stage_timeout\): it is ended", ended)
    assert [("fifo.open" in found) for found in (first_stack, stack)] == [how == "hangs"] * 2


def test_training_goes_on_from_its_checkpoint_on_the_node_that_is_left(nodes: Cluster, tmp_path: Path) -> None:
    added = [nodes.add_node(num_cpus=1) for _ in range(2)]
    output = Output(str(tmp_path), "train_line", "f0")
    events: list[Event] = []
    removed: list[Any] = []

    def remove_a_node(event: Event) -> None:
        events.append(event)
        if isinstance(event, Metrics) and event.step >= 3 and not removed:
            removed.append(added[1])
            nodes.remove_node(added[1], allow_graceful=False)

    settings: dict[str, Any] = {"num_steps": 8, "batch_size": 8, "learning_rate": 0.02, "log_interval": 1,
                                "precision": "float32", "checkpoint_interval": 2}  # fmt: skip
    allocation = Allocation(num_workers=2, wait_for_nodes=0.0)
    context = StageContext(remove_a_node, None, launch_with_ray_train, allocation)  # type: ignore[arg-type]
    task = partial(copy.copy, LineTask(dropout=False, pause=0.5))
    train(task, TrainingConfig(**settings), seed=3, output=output, context=context)
    assert removed
    trained = [event for event in events if isinstance(event, Metrics) and "loss" in event.values]
    losses = [(event.step, event.values["loss"]) for event in trained]
    assert {step for step, _ in losses} == set(range(1, 9))
    for step, loss in losses:  # those that were made again are the same but for rounding
        assert loss == pytest.approx(dict(losses)[step], rel=1e-4)
    assert load_model_state(output, "line")
    nodes.remove_node(added[0], allow_graceful=False)


def _world_size(payload: dict[str, Any], emit: Callable[[Any], None]) -> int:
    """Tell how many processes there are; until the file is there, wait for it."""
    emit("started")
    while not Path(payload["go_on"]).exists():
        time.sleep(0.1)
    return int(os.environ["WORLD_SIZE"])


def test_a_group_starts_with_the_workers_that_there_is_room_for(nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "go on").touch()
    node = nodes.add_node(num_cpus=1)
    group = TrainGroup(num_workers=3, smaller=(2, 1), wait_for_nodes=4.0)
    begun = time.monotonic()
    assert launch_with_ray_train(_world_size, {"go_on": tmp_path / "go on"}, group, lambda event: None) == 1
    assert time.monotonic() - begun > 4.0
    nodes.remove_node(node, allow_graceful=False)


def test_a_group_takes_a_node_that_comes_while_it_waits(nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "go on").touch()
    added = [nodes.add_node(num_cpus=1)]
    group = TrainGroup(num_workers=2, smaller=(1,), wait_for_nodes=60.0)
    payload = {"go_on": tmp_path / "go on"}
    with ThreadPoolExecutor(1) as executor:
        found = executor.submit(launch_with_ray_train, _world_size, payload, group, lambda event: None)
        time.sleep(2.0)
        added.append(nodes.add_node(num_cpus=1))  # which Ray does in the main thread alone
        assert found.result() == 2
    for node in added:
        nodes.remove_node(node, allow_graceful=False)
