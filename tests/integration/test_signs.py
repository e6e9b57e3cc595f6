"""Signs of life of a stage's process, and the mailbox that carries them, where something fails on the way."""

import os
import subprocess
import sys
import time

import pytest

from cluster.attention import AttentiveClock
from cluster.channel import Channel
from cluster.mapping import WorkerResources
from cluster.pool import map_on_ray
from cluster.task_signs import TaskLimits, TaskSign, TaskWatchdog, giving_signs
from cluster.workers import MachineWorkers

pytestmark = pytest.mark.usefixtures("local_ray")
PROCESS = "import time; time.sleep(600)"


def _own_sign() -> TaskSign:
    """Return the sign of this process."""
    signs: list[TaskSign] = []
    with giving_signs(signs.append, TaskLimits()):
        _wait_for(signs, 1)
    return signs[0]


def _wait_for(found: list[TaskSign], count: int) -> None:
    until = time.monotonic() + 100
    while len(found) < count:
        assert time.monotonic() < until, found
        time.sleep(0.05)


def test_a_sign_that_cannot_be_sent_is_not_the_last() -> None:
    signs: list[TaskSign] = []

    def send(sign: TaskSign) -> None:
        signs.append(sign)
        if len(signs) in (2, 3):
            raise TimeoutError("the head does not reply")

    with giving_signs(send, TaskLimits(heartbeat_timeout=0.6)):
        _wait_for(signs, 6)
    assert {(sign.pid, sign.created) for sign in signs} == {(os.getpid(), signs[0].created)}


def test_a_process_that_does_not_end_is_ended_again_and_another_one_with_its_number_is_not() -> None:
    at = 0.0
    reports: list[str] = []
    watchdog = TaskWatchdog(AttentiveClock(5.0, lambda: at))
    watchdog.begin("evaluate", TaskLimits(), lambda message, _: reports.append(message))
    own = _own_sign()
    with subprocess.Popen([sys.executable, "-c", PROCESS]) as sleeper:
        watchdog.note("evaluate", TaskSign(own.node, sleeper.pid, created=own.created, still=4000.0))
        while len(reports) < 3:
            at += 4.0
            watchdog.check()
        assert reports[0].endswith("stands still for 4000 s (resources.stage_timeout): it is ended")
        assert reports[1:] == [f"its process ({sleeper.pid}) has not ended: it is ended again"] * 2
        assert sleeper.poll() is None, "it is not the one that was started then"
        sleeper.kill()


def test_a_process_started_anew_is_watched_although_the_one_before_was_ended() -> None:
    reports: list[str] = []
    watchdog = TaskWatchdog()
    watchdog.begin("evaluate", TaskLimits(), lambda message, _: reports.append(message))
    own = _own_sign()
    watchdog.note("evaluate", TaskSign(own.node, 1 << 22, created=1.0, still=4000.0))  # a last sign, come late
    watchdog.check()
    with subprocess.Popen([sys.executable, "-c", PROCESS]) as hanging:
        watchdog.note("evaluate", TaskSign(own.node, hanging.pid, _created(hanging.pid), still=0.0))
        watchdog.check()
        assert len(reports) == 1
        watchdog.note("evaluate", TaskSign(own.node, hanging.pid, _created(hanging.pid), still=4000.0))
        watchdog.check()
        assert len(reports) == 2
        assert hanging.wait(100) == -9


def _created(pid: int) -> float:
    """Return what a sign of that process says."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return float(file.read().rpartition(")")[2].split()[19])


def test_a_mailbox_that_is_slow_to_start_is_waited_for() -> None:
    """Were it started anew at each call without a reply, it would never be there."""
    channel = Channel(reply_seconds=0.2)
    channel.post("download_shards", "done")
    assert channel.sender("embed_clip").poll("download_shards") == "done"


def test_workers_of_a_short_map_are_seen() -> None:
    reports: list[tuple[MachineWorkers, ...]] = []
    sleep = time.sleep  # sent by value, as a function of this module would not be
    list(map_on_ray(lambda: lambda item: sleep(3.0), [1], WorkerResources(heartbeat_timeout=400.0), reports.append))
    assert max(one.count for report in reports for one in report) == 1
