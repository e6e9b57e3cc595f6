"""The pool of workers of a map over Ray: lost workers, workers that stand still, and how many there are."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import ray

from cluster.errors import WorkersLost
from cluster.growth import Growth
from cluster.item_progress import note_samples
from cluster.mapping import Growing, WorkerResources
from cluster.pool import map_on_ray
from cluster.workers import MachineWorkers
from tests.pool_workers import (
    die,
    die_once,
    make_slow,
    meet_or_hold,
    name_process,
    start_alone,
    start_slowly_once,
    stop_itself,
)

pytestmark = pytest.mark.usefixtures("local_ray")


def test_an_item_that_kills_its_worker_at_each_retry_leaves_the_others_alone() -> None:
    done: list[int] = []
    with pytest.raises(WorkersLost, match=r"1 items took down 3 workers each .* \(1; "):
        done.extend(map_on_ray(lambda: die, range(5), WorkerResources()))
    assert sorted(done) == [0, 2, 3, 4]


def test_workers_that_fell_silent_without_a_word_cost_their_items_one_try_each(tmp_path: Path) -> None:
    """As on a node that vanishes: two workers have an item, and of those that wait beside them one alone lives."""
    number, held = 6, [tmp_path / "hold-1", tmp_path / "hold-2"]
    workers: list[int] = []
    stopped: set[int] = set()

    def come() -> Iterator[Sequence[str]]:
        yield [f"{index}" for index in range(number)]
        while len(workers) < number:
            yield ()
        yield [file.name for file in held]
        while not all(file.exists() and file.read_text() for file in held):
            yield ()
        holding = {int(file.read_text()) for file in held}
        stop(holding)
        since = time.monotonic()
        while time.monotonic() < since + 4.0:  # so that the others are missed later
            yield ()
        waiting = [pid for pid in workers if pid not in holding]
        stop(set(waiting[1:]))

    def stop(processes: set[int]) -> None:
        stopped.update(processes)
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)

    resources = WorkerResources(num_workers=number, num_cpus=0.2, heartbeat_timeout=12.0, max_tries=2)
    for worker in map_on_ray(lambda: partial(meet_or_hold, tmp_path, number), Growing(come()), resources):
        workers.append(worker)
    assert len(set(workers[:number])) == number
    assert len(workers) == number + len(held)
    assert not stopped & set(workers[number:])


def test_an_item_that_silences_every_worker_at_once_is_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    """None of them gives a sign after it was given the item, as none would that was gone before."""
    done: list[int] = []
    with pytest.raises(WorkersLost, match=r"1 items took down 1 workers each .* \(1; last: it gave no sign of life"):
        done.extend(map_on_ray(lambda: stop_itself, range(4), WorkerResources(heartbeat_timeout=6.0, max_tries=1)))
    assert sorted(done) == [0, 2, 3]
    assert 1 <= sum("a worker was lost at 1" in message for message in caplog.messages) <= 2


def test_a_worker_that_lives_goes_on_where_no_other_can_start(tmp_path: Path) -> None:
    """As on a cluster with one node that takes down whatever starts there; the other worker must not go with it."""

    def num_ended() -> int:
        return len(list(tmp_path.glob("ended-*")))

    def come() -> Iterator[Sequence[int]]:
        given = 0
        until = float("inf")
        while time.monotonic() < until:
            yield [given]
            given += 1
            if num_ended() >= 3 and until == float("inf"):
                until = time.monotonic() + 3.0

    resources = WorkerResources(num_workers=2)
    done = list(map_on_ray(partial(start_alone, tmp_path), Growing(come()), resources))
    assert done == list(range(len(done)))
    assert num_ended() == 3  # no more are started for a while
    with pytest.raises(WorkersLost, match="3 workers were lost, one after another, before they were ready"):
        list(map_on_ray(partial(start_alone, tmp_path), range(2), resources))


def test_a_consumer_that_is_held_up_costs_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    """As one that writes to a store which gives no reply for minutes: it asks no worker for signs of life then."""
    resources = WorkerResources(num_workers=2, heartbeat_timeout=8.0)
    done = []
    for item, pid, _ in map_on_ray(partial(make_slow, 0.1), range(12), resources):
        done.append((item, pid))
        if len(done) == 3:
            time.sleep(17.0)  # longer than a worker may be silent
    assert sorted(item for item, _ in done) == list(range(12))
    assert len({pid for _, pid in done}) <= 2
    assert caplog.messages == []


def test_a_worker_knows_that_another_was_lost_at_its_item(tmp_path: Path) -> None:
    work = partial(die_once, tmp_path / "flag")
    found = dict(map_on_ray(lambda: work, range(4), WorkerResources()))
    assert found == {0: True, 1: False, 2: False, 3: False}


def test_the_pool_grows_when_no_more_will_come_and_lets_idle_workers_go(tmp_path: Path) -> None:
    came: dict[str, int] = {}

    def come() -> Iterator[Sequence[tuple[str, Path | None]]]:
        yield [("a", None), ("b", None)]
        while len(came) < 2:
            yield ()
        paused = time.monotonic()
        while time.monotonic() < paused + 1.0:  # longer than the worker may be idle
            yield ()
        yield [("c", None)]
        while len(came) < 3:
            yield ()
        yield [("d", tmp_path), ("e", tmp_path)]

    resources = WorkerResources(num_workers=2, num_while_growing=1, idle_seconds=0.3)
    for name, worker in map_on_ray(lambda: name_process, Growing(come()), resources):
        came[name] = worker
    assert set(came) == set("abcde")
    assert came["a"] == came["b"] != came["c"]
    assert came["d"] != came["e"]


def test_workers_that_no_item_has_come_for_make_room_for_what_is_to_make_it() -> None:
    def come() -> Iterator[Sequence[tuple[str, None]]]:
        yield from _until(lambda: _free_cpus() < everything)
        yield from _until(lambda: _free_cpus() == everything)
        yield [("a", None)]

    everything = ray.cluster_resources()["CPU"]
    resources = WorkerResources(num_cpus=everything, idle_seconds_at_first=1.0)
    assert [name for name, _ in map_on_ray(lambda: name_process, Growing(come()), resources)] == ["a"]


def test_a_map_that_begins_anew_has_workers_on_the_nodes_that_had_come_before() -> None:
    """As after the loss of the process that drives it: one of the two CPUs came when its workers had been counted."""
    anew = Growth(WorkerResources(grows=True, room_at_first=1))
    first = Growth(WorkerResources(num_workers=2, grows=True))
    until = time.monotonic() + 60
    while not anew.more(1, 1) and time.monotonic() < until:
        time.sleep(0.2)
    assert (anew.more(1, 1), first.more(2, 2)) == (1, 0)


def _until(holds: Callable[[], bool]) -> Iterator[tuple[()]]:
    until = time.monotonic() + 90.0
    while not holds():
        assert time.monotonic() < until
        yield ()


def _free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0.0))


def test_it_is_reported_on_which_machine_the_workers_are_and_at_what(tmp_path: Path) -> None:
    reports: list[tuple[MachineWorkers, ...]] = []
    note, sleep = note_samples, time.sleep  # sent by value, as functions of this module would not be

    def work(item: str) -> None:
        """Be at it until it is reported how many samples are done, some minutes at most."""
        note(1200)
        for _ in range(2000):
            if (tmp_path / item).exists():
                return
            sleep(0.1)

    def report(machines: tuple[MachineWorkers, ...]) -> None:
        reports.append(machines)
        for name, _, done in (item.partition(" ") for one in machines for item in one.items):
            if done == "(1,200 done)":
                (tmp_path / name).touch()

    resources = WorkerResources(num_workers=2, heartbeat_timeout=4.0)
    list(map_on_ray(lambda: work, ["00003", "00004"], resources, report))
    assert {one.machine.partition(" ")[0] for report in reports for one in report} == {socket.gethostname()}
    assert max(one.count for report in reports for one in report) <= 2
    items = {item for report in reports for one in report for item in one.items}
    assert {item.partition(" ")[0] for item in items} == {"00003", "00004"}
    assert items & {"00003 (1,200 done)", "00004 (1,200 done)"}
    assert max(one.samples for report in reports for one in report) in (1200, 2400)
    assert reports[-1] == ()


def test_a_worker_that_stands_still_while_it_starts_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resources = WorkerResources(stage_timeout=8.0)
    assert list(map_on_ray(partial(start_slowly_once, tmp_path / "flag"), [-3], resources)) == [3]
    (record,) = [one for one in caplog.records if "stands still while it starts" in one.getMessage()]
    assert "start_slowly_once" in record.attachment  # type: ignore[attr-defined]
