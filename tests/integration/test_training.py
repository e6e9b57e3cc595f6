"""Training groups under Ray Train: two processes equal one, errors come back as raised, nothing is left behind."""

import copy
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.errors import TrainingLost
from cluster.ray_train import launch_with_ray_train
from cluster.training import TrainGroup, launch_in_process
from cluster.workers import MachineWorkers
from stages.contract.events import Event, Log, Metrics, Progress
from stages.contract.stage import Allocation, StageContext
from stages.formats.checkpoints import checkpoint_steps
from stages.formats.model_folders import load_model_state
from stages.storage.artifact import Output
from stages.training.config import TrainingConfig
from stages.training.launch import train
from tests.live import command_of, descendants
from tests.unit.stages.training.line import LineTask

pytestmark = pytest.mark.usefixtures("local_ray")


def run(folder: Path, workers: int, task: LineTask, **changes: Any) -> dict[int, float]:
    settings = {"num_steps": 6, "batch_size": 8, "learning_rate": 0.02, "log_interval": 1, "precision": "float32",
                "checkpoint_interval": 2}  # fmt: skip
    events: list[Event] = []
    launch = launch_with_ray_train if workers > 0 else launch_in_process
    context = StageContext(events.append, None, launch, Allocation(num_workers=max(workers, 1)))  # type: ignore[arg-type]
    output = Output(str(folder), "train_line", "f0")
    train(partial(copy.copy, task), TrainingConfig(**(settings | changes)), seed=3, output=output, context=context)
    assert [e.done for e in events if isinstance(e, Progress)][-1] == 6
    return {e.step: e.values["loss"] for e in events if isinstance(e, Metrics) and "loss" in e.values}


def test_two_processes_train_as_one_does_and_take_up_each_others_checkpoints(tmp_path: Path) -> None:
    alone = run(tmp_path / "one", 0, LineTask(dropout=False))
    with pytest.raises(ValueError, match="no data for step 3"):
        run(tmp_path / "two", 2, LineTask(dropout=False, fail_at=3), zero_stage=3)
    assert checkpoint_steps(Output(str(tmp_path / "two"), "train_line", "f0")) == [2]
    resumed = run(tmp_path / "two", 2, LineTask(dropout=False), zero_stage=2)
    assert resumed == pytest.approx({step: alone[step] for step in range(3, 7)}, rel=1e-4)
    one, two = (load_model_state(Output(str(tmp_path / n), "train_line", "f0"), "line") for n in ("one", "two"))
    for name, weight in one.items():
        assert two[name].flatten().tolist() == pytest.approx(weight.flatten().tolist(), rel=1e-3, abs=1e-5)


def fail_on_last_rank(folder: Path, emit: Callable[[Any], None]) -> None:
    emit(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}")
    if os.environ["RANK"] == "1":
        while not (folder / "rank 0 of 2").exists():  # it is heard what rank 0 has emitted
            time.sleep(0.02)
        raise KeyError("the key that is missing")


@pytest.mark.thorough
def test_two_processes_without_zero_train_as_one_does(tmp_path: Path) -> None:
    alone = run(tmp_path / "one", 0, LineTask(dropout=False))
    assert run(tmp_path / "two", 2, LineTask(dropout=False), zero_stage=0) == pytest.approx(alone, rel=1e-4)


def give_rank(payload: tuple[int, Path], emit: Callable[[Any], None]) -> int:
    """Return a number and the rank's own; until the file is there, wait for it, some minutes at most."""
    number, go_on = payload
    until = time.monotonic() + 200
    while not go_on.exists() and time.monotonic() < until:
        time.sleep(0.1)
    return int(os.environ["RANK"]) + number


def test_rank_0_gives_the_result_and_it_is_reported_on_which_machine_the_ranks_are(tmp_path: Path) -> None:
    reports: list[tuple[MachineWorkers, ...]] = []
    go_on = tmp_path / "go on"

    def report(machines: tuple[MachineWorkers, ...]) -> None:
        reports.append(machines)
        if [one.count for one in machines] == [2]:
            go_on.touch()

    group = TrainGroup(num_workers=2)
    assert launch_with_ray_train(give_rank, (5, go_on), group, print, report=report) == 5
    (both,) = next(machines for machines in reports if [one.count for one in machines] == [2])
    assert both.items == ("rank 0", "rank 1")
    assert both.machine.startswith(socket.gethostname())
    assert reports[-1] == ()
    assert launch_in_process(give_rank, (5, go_on), TrainGroup(), print) == 5
    with pytest.raises(ValueError, match="found 2 workers"):
        launch_in_process(give_rank, (5, go_on), group, print)
    named = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    assert "AutoscalingCoordinator" not in named  # Ray Train's, which would also outlive the job on a cluster


def hang_once_and_chatter(started: Path, emit: Callable[[Any], None]) -> str:
    """The first time, take no step for good, while lines of a log are reported."""
    if started.exists():
        return "again"
    started.touch()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        emit(Log("waits for the storage"))
        time.sleep(0.2)
    return "never ended"


def test_a_training_that_takes_no_step_is_replaced_whatever_it_logs(tmp_path: Path) -> None:
    group = TrainGroup(stage_timeout=6.0)
    assert launch_with_ray_train(hang_once_and_chatter, tmp_path / "started", group, lambda event: None) == "again"


def test_a_workers_error_comes_back_as_it_was_raised(tmp_path: Path) -> None:
    events: list[str] = []
    home = set(Path.home().iterdir())

    def hear(event: str) -> None:
        events.append(event)
        (tmp_path / event).touch()

    with pytest.raises(KeyError, match="the key that is missing") as caught:
        launch_with_ray_train(fail_on_last_rank, tmp_path, TrainGroup(num_workers=2), hear)
    assert re.search(r'test_training\.py", line \d+, in fail_on_last_rank', "".join(caught.value.__notes__))
    assert sorted(events) == ["rank 0 of 2", "rank 1 of 2"]
    assert Path.home() / "ray_results" not in set(Path.home().iterdir()) - home


def die(payload: Any, emit: Callable[[Any], None]) -> None:
    time.sleep(6)  # a group that dies while it starts keeps its place in Ray Train, and the next would wait for it
    os._exit(7)


def test_a_dead_worker_is_an_error_not_a_wait() -> None:
    with pytest.raises(
        TrainingLost, match=r"lost a process \(start 2: rank 0, process \d+ on [0-9.]+: it was killed, "
    ):
        launch_with_ray_train(die, None, TrainGroup(restarts=1), print)


def die_once(flag: Path, emit: Callable[[Any], None]) -> str:
    if not flag.exists():
        flag.touch()
        time.sleep(6)  # in the middle of its work
        os.kill(os.getpid(), signal.SIGKILL)
    return "went on"


def test_a_group_that_loses_a_process_is_started_again(tmp_path: Path) -> None:
    assert launch_with_ray_train(die_once, tmp_path / "flag", TrainGroup(), print) == "went on"


def _process_id(payload: dict[str, Path], emit: Callable[[Any], None]) -> int:
    """Return it; until the file is there, wait for it."""
    emit("started")
    while not payload["go_on"].exists():
        time.sleep(0.1)
    return os.getpid()


def test_a_group_that_holds_all_processors_starts_again_without_its_controller(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a lost controller held would be held for ever: nobody else of Ray Train's gives it back here."""
    events: list[str] = []

    def take_down(event: str) -> None:
        events.append(event)
        for one in descendants():
            if len(events) == 1 and "".join(command_of(one)[:1]).startswith("ray::TrainController"):
                one.kill()
                (tmp_path / "go on").touch()

    group = TrainGroup(num_workers=1, num_cpus=2)
    assert launch_with_ray_train(_process_id, {"go_on": tmp_path / "go on"}, group, take_down) != os.getpid()
    assert events == ["started", "started"]
    assert "there is no room for" not in caplog.text
