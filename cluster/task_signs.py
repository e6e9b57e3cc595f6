"""Signs of life of a stage's own process, and what follows when it falls silent or stands still.

A thread of the process gives them, so that the work waits for nothing. It also looks at the main thread: one that has
not run for a moment all the time hangs (in input or output, for a lock). A silent stage that computes, or that asks
again and again whether others are done, does not.
"""

import contextlib
import functools
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.attention import AttentiveClock
from cluster.rank_link import process_stack

_SIGNS_PER_TIMEOUT, _SIGN_SECONDS = 6, 5.0  # signs at least so often in a heartbeat timeout, and in seconds
_NOTICE_FRACTION = 0.5  # of the time that a process may stand still, after which it is reported
_USER_TIME, _STARTED = 11, 19  # indices in proc(5)'s stat, behind the name; the system's time follows the user's
_SWITCHES = 2  # counters of how often a thread was taken off: by itself, and by others
_AGAIN_SECONDS = 60.0  # after which a process that was to be ended, and is there, is ended again
_MOST_TICK_SECONDS = 5.0  # a longer one, by the clock of silence, is that of a driver that was held up


@dataclass(frozen=True)
class TaskSign:
    """A sign of life of the process that runs a task."""

    node: str
    pid: int
    created: float
    """When the process was started, on its machine, in which another one with its number differs."""
    still: float
    """Seconds for which its main thread has not run."""
    stack: str = ""
    """What its threads do, once that is worth a report."""


@dataclass(frozen=True)
class TaskLimits:
    """For how long a process may be silent before it is reported, and stand still before it is ended; in seconds."""

    heartbeat_timeout: float = 30.0
    stage_timeout: float = 3600.0

    @property
    def notice(self) -> float:
        """Seconds of standing still after which it is reported."""
        return _NOTICE_FRACTION * self.stage_timeout


@contextlib.contextmanager
def giving_signs(send: Callable[[TaskSign], None], limits: TaskLimits) -> Iterator[None]:
    """Give signs of life of this process, whose main thread has called this, for the length of the block."""
    over = threading.Event()
    own = (ray.get_runtime_context().get_node_id(), threading.get_native_id())
    thread = threading.Thread(target=_give_signs, args=(send, limits, *own, over), name="corgi-signs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_SIGN_SECONDS)


def _give_signs(
    send: Callable[[TaskSign], None], limits: TaskLimits, node: str, worker: int, over: threading.Event
) -> None:
    pid, created = os.getpid(), _start_of(os.getpid())
    pause = min(_SIGN_SECONDS, limits.heartbeat_timeout / _SIGNS_PER_TIMEOUT, limits.stage_timeout / _SIGNS_PER_TIMEOUT)
    stillness = _Stillness(worker, AttentiveClock(2 * pause))
    while True:
        with contextlib.suppress(Exception):  # such as a head that does not reply: the next sign may arrive
            still = stillness.poll()
            send(TaskSign(node, pid, created, still, process_stack() if still > limits.notice else ""))
        if over.wait(pause):
            return


def _start_of(pid: int) -> float:
    """Return when a process was started: on Linux in ticks since the machine's start, which setting the time leaves.

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """
    try:
        return float(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[_STARTED])
    except OSError:
        return float(psutil.Process(pid).create_time())


class _Stillness:
    """For how long a thread has not been given a processor; where the system does not tell that (Linux does): 0."""

    def __init__(self, thread: int, clock: AttentiveClock) -> None:
        self._thread, self._clock = thread, clock
        self._ran = _runs_of(thread)
        self._since = clock.now()

    def poll(self) -> float:
        """Return the seconds."""
        ran, now = _runs_of(self._thread), self._clock.now()
        if ran is None or ran != self._ran:
            self._ran, self._since = ran, now
        return now - self._since


def _runs_of(thread: int) -> tuple[bytes, ...] | None:
    """Return what grows whenever a thread of this process runs: how often it was taken off, and its seconds."""
    folder = Path(f"/proc/self/task/{thread}")
    try:
        switches = re.findall(rb"ctxt_switches:\s*(\d+)", (folder / "status").read_bytes())
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()  # from the third of proc(5)'s on
    except OSError:
        return None
    if len(switches) != _SWITCHES:  # seconds alone are too coarse: a thread that only waits uses none for minutes
        return None
    return (*switches, *fields[_USER_TIME : _USER_TIME + 2])


@dataclass
class _Watched:
    limits: TaskLimits
    report: Callable[[str, str], None]
    sign: TaskSign | None = None
    heard: float = 0.0
    """When its last sign arrived."""
    is_noticed: bool = False
    ended: float | None = None
    """When its end was last asked for."""


@dataclass
class TaskWatchdog:
    """The driver's side: what is known of the process of each task."""

    clock: AttentiveClock = field(default_factory=functools.partial(AttentiveClock, _MOST_TICK_SECONDS))
    _tasks: dict[str, _Watched] = field(default_factory=dict)

    def begin(self, name: str, limits: TaskLimits, report: Callable[[str, str], None]) -> None:
        """Watch a task, which starts now; ``report`` takes a warning, and a stack or nothing."""
        self._tasks[name] = _Watched(limits, report)

    def end(self, name: str) -> None:
        """Watch it no longer."""
        self._tasks.pop(name, None)

    def note(self, name: str, sign: TaskSign) -> None:
        """Take in a sign."""
        if (watched := self._tasks.get(name)) is None:
            return
        if watched.sign is not None and _process_of(watched.sign) != _process_of(sign):  # a last sign of the one before
            watched.is_noticed, watched.ended = False, None
        watched.sign, watched.heard = sign, self.clock.now()

    def check(self) -> None:
        """Report processes that are silent or stand still, and end those that do so for ``stage_timeout``.

        Once a process has ended, its task fails as one whose process was lost.
        """
        for watched in self._tasks.values():
            if watched.sign is None:
                continue  # before its first sign, Ray tells of its loss
            now = self.clock.now()
            if watched.ended is None:
                self._check(watched, watched.sign, now - watched.heard)
            elif now - watched.ended > _AGAIN_SECONDS:
                watched.ended = now
                watched.report(f"its process ({watched.sign.pid}) has not ended: it is ended again", "")
                _end_process(watched.sign)

    def _check(self, watched: _Watched, sign: TaskSign, silent: float) -> None:
        limits = watched.limits
        where = f"its process ({sign.pid}, node {sign.node[:8]})"
        still = max(sign.still, silent)
        if still > limits.stage_timeout:
            watched.ended = self.clock.now()
            watched.report(f"{where} stands still for {still:.0f} s (resources.stage_timeout): it is ended", sign.stack)
            _end_process(sign)
        elif watched.is_noticed:
            watched.is_noticed = silent > limits.heartbeat_timeout or sign.still > limits.notice
        elif silent > limits.heartbeat_timeout:
            watched.is_noticed = True
            watched.report(f"{where} gave no sign of life for {silent:.0f} s: the stage waits for it", "")
        elif sign.still > limits.notice:
            watched.is_noticed = True
            limit = f"its limit (resources.stage_timeout) is {limits.stage_timeout:g} s"
            watched.report(f"{where} hangs in one call for {sign.still:.0f} s already; {limit}", sign.stack)


def _process_of(sign: TaskSign) -> tuple[str, int, float]:
    return sign.node, sign.pid, sign.created


def _end_process(sign: TaskSign) -> None:
    """End a process at its node, whether it responds or not."""
    there = NodeAffinitySchedulingStrategy(sign.node, soft=False)
    ray.remote(_kill).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(sign.pid, sign.created)


def _kill(pid: int, created: float) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if _start_of(pid) == created:
            os.kill(pid, signal.SIGKILL)
