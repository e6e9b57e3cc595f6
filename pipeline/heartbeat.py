"""The sign of life of a run: runs/<run>/heartbeat.json, renewed by the process that drives the run.

A record says ``running`` also after its driver was killed. So the driver renews a small file of its own beside it, and
a run whose file is old, or whose process is gone from this machine, is lost.
"""

import contextlib
import datetime
import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from cluster.signals import signals_held_back
from cluster.workers import SHOWN_ITEMS, WorkersByMachine
from pipeline.errors import UsageError
from pipeline.progress import USED, RunningStages
from pipeline.record import RunRecord, StageEntry
from pipeline.store import Store
from stages.contract.texts import one_line

BEAT_SECONDS = 10.0
_LAST_SECONDS = 5.0  # to wait for a beat that is being written when the run ends
_MISSED_BEATS = 9  # after which a run is lost: a busy machine, or a store that is away for a moment, costs some
_MOST_SKEW = datetime.timedelta(minutes=5)  # of two machines' clocks; a beat from further ahead says nothing
_DAY = 86_400.0
_SAME_START = 2.0  # seconds by which two readings of a process's start may differ
_LONGEST_WORDS = 100  # characters of a unit or a note
_MOST_STAGES = 100
_MOST_MACHINES = 200  # of a stage that are listed
_log = logging.getLogger(__name__)


class StageProgress(BaseModel):
    """How far a running stage was at a sign of life."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    done: NonNegativeInt
    total: NonNegativeInt
    unit: str = Field(max_length=_LONGEST_WORDS)
    note: str = Field("", max_length=_LONGEST_WORDS)
    per_second: FiniteFloat | None = None
    seconds_left: FiniteFloat | None = None
    seconds: FiniteFloat | None = None
    """For how long it had run; none by versions before this field."""
    used: dict[str, FiniteFloat] = Field(default_factory=dict, max_length=len(USED))
    """What it reported last of data wait and of its use of processors; versions before this field gave none."""


class MachineEntry(BaseModel):
    """The workers of a stage on one machine, and the shards or ranks of the first of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machine: str = Field(max_length=_LONGEST_WORDS)
    workers: NonNegativeInt
    items: tuple[str, ...] = Field((), max_length=SHOWN_ITEMS)


class StageWorkers(BaseModel):
    """On which machines a running stage computes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machines: tuple[MachineEntry, ...] = Field(max_length=_MOST_MACHINES)
    further: NonNegativeInt = 0
    """Machines that are not listed."""

    @classmethod
    def of(cls, machines: WorkersByMachine) -> "StageWorkers":
        """Return the first of the machines."""
        listed = tuple(
            MachineEntry(
                machine=one_line(one.machine, _LONGEST_WORDS),
                workers=one.count,
                items=tuple(one_line(item, _LONGEST_WORDS) for item in one.items[:SHOWN_ITEMS]),
            )
            for one in machines[:_MOST_MACHINES]
        )
        return cls(machines=listed, further=len(machines) - len(listed))


class Heartbeat(BaseModel):
    """One sign of life: which process gave it, where, when, how many it has given, and how far the stages are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    machine: str
    """Where its process id counts: this boot of this machine, and the container."""
    pid: int = Field(gt=0, lt=2**31)
    process_started: float
    time: AwareDatetime
    count: NonNegativeInt
    interval: float = Field(gt=0, le=_DAY)
    progress: dict[str, StageProgress] = Field(default_factory=dict, max_length=_MOST_STAGES)
    workers: dict[str, StageWorkers] = Field(default_factory=dict, max_length=_MOST_STAGES)

    @classmethod
    def now(cls, count: int, stages: RunningStages | None = None) -> "Heartbeat":
        """Return this process's present one."""
        return cls(
            host=socket.gethostname(),
            machine=this_machine(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            time=datetime.datetime.now(datetime.UTC),
            count=count,
            interval=BEAT_SECONDS,
            progress={} if stages is None else _progress_of(stages),
            workers={} if stages is None else {name: StageWorkers.of(one) for name, one in stages.machines().items()},
        )


def _progress_of(stages: RunningStages) -> dict[str, StageProgress]:
    used, seconds = stages.used(), stages.seconds()
    return {
        name: StageProgress(
            done=latest.done,
            total=latest.total,
            unit=one_line(latest.unit, _LONGEST_WORDS),
            note=one_line(latest.note, _LONGEST_WORDS),
            per_second=rate,
            seconds_left=left,
            seconds=seconds.get(name),
            used=used.get(name, {}),
        )
        for name, (latest, rate, left) in stages.snapshot().items()
    }


def this_machine() -> str:
    """Return what two processes have in common that see each other's ids; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


@contextlib.contextmanager
def beating(store: Store, run: str) -> Iterator[RunningStages]:
    """Renew the run's sign of life for the length of the block, with how far the stages are that are noted."""
    over, stages = threading.Event(), RunningStages()
    count = 0

    def beat() -> None:
        nonlocal count
        while True:
            try:
                store.write_heartbeat(run, Heartbeat.now(count, stages).model_dump(mode="json"))
            except Exception as error:  # noqa: BLE001  whatever the file system raises: the store may come back
                _log.warning("run %s: its sign of life could not be written (%s)", run, one_line(error))
            count += 1
            if over.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="corgi-heartbeat", daemon=True)
    with signals_held_back():  # from the thread, so that they reach this one
        thread.start()
    try:
        yield stages
    finally:
        over.set()
        thread.join(_LAST_SECONDS)


@dataclass(frozen=True)
class Life:
    """What is known of a run beside its record."""

    status: str
    """As its record has it, or ``lost`` where nobody drives it any more."""
    last_sign: datetime.datetime | None = None
    age: str = ""
    """Of a lost run: since when."""
    words: str = ""
    """Of a lost run: why, and what to do."""
    progress: Mapping[str, StageProgress] = field(default_factory=dict)
    """Of one that runs: how far its stages are."""
    workers: Mapping[str, StageWorkers] = field(default_factory=dict)
    """Of one that runs: on which machines its stages compute."""

    def seconds_of(self, entry: StageEntry) -> float | None:
        """Return for how long a stage ran, or has run by the last sign of life; None: it did not, or nobody knows.

        The record has of a stage that runs only the seconds by when it was written, which may be hours ago.
        """
        if entry.state != "running":
            return entry.seconds or None
        return self.progress[entry.name].seconds if entry.name in self.progress else None

    @property
    def shown(self) -> str:
        """Return the status, and since when a run is lost."""
        return f"{self.status} ({self.age})" if self.age else self.status


def life_of(record: RunRecord, store: Store) -> Life:
    """Return whether a run whose record says that it runs does so."""
    if record.status != "running":
        return Life(record.status)
    try:
        heartbeat = Heartbeat.model_validate(store.read_heartbeat(record.run))
    except ValidationError:  # there is none, or it is damaged
        heartbeat = None
    life = life_by(record, heartbeat, _now())
    if life.status == "lost":  # or its driver has closed the record since that was read, and ended
        with contextlib.suppress(UsageError):
            newest = store.read_run(record.run)
            return life if newest is None or newest.status == "running" else Life(newest.status)
    return life


def life_by(record: RunRecord, heartbeat: Heartbeat | None, now: datetime.datetime) -> Life:
    """Return whether a run is alive, by its newest heartbeat and, on its own machine, by its process."""
    remedy = "run the same command again to go on: what was finished is kept"
    if heartbeat is None and _has_just_started(record, now):
        return Life(record.status)
    if heartbeat is None:
        return Life("lost", None, "no sign of life", f"the run gave no sign of life, so nobody drives it: {remedy}")
    where = f"process {heartbeat.pid} on {one_line(heartbeat.host, 80)}"
    age = _age(heartbeat.time, now)
    is_here = bool(heartbeat.machine) and heartbeat.machine == this_machine()
    if is_here and not _is_process(heartbeat):
        return Life("lost", heartbeat.time, age, f"{where}, which drove the run, is gone ({age}): {remedy}")
    late = now - heartbeat.time
    if -_MOST_SKEW <= late <= datetime.timedelta(seconds=_MISSED_BEATS * heartbeat.interval):
        return Life(record.status, heartbeat.time, progress=heartbeat.progress, workers=heartbeat.workers)
    if is_here:
        reason = f"{where} is there, but has stopped, or cannot write to the store ({age})"
        resume = f"let it go on (kill -CONT {heartbeat.pid}), or end it and {remedy}"
        return Life("lost", heartbeat.time, age, f"{reason}: {resume}")
    return Life("lost", heartbeat.time, age, f"{where} drove the run ({age}): if it is gone, {remedy}")


def _has_just_started(record: RunRecord, now: datetime.datetime) -> bool:
    """Return whether the first sign of life may still be on its way."""
    try:
        age = now - datetime.datetime.fromisoformat(record.started)
    except (ValueError, TypeError):  # no time, or one of no zone: the record is of another version, or was changed
        return False
    return datetime.timedelta(0) <= age <= datetime.timedelta(seconds=_MISSED_BEATS * BEAT_SECONDS)


def _is_process(heartbeat: Heartbeat) -> bool:
    """Return whether the process is on this machine; another one may have its id by now."""
    try:
        process = psutil.Process(heartbeat.pid)
        is_same = abs(process.create_time() - heartbeat.process_started) < _SAME_START
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _age(last: datetime.datetime, now: datetime.datetime) -> str:
    seconds = (now - last).total_seconds()
    for unit, length in (("d", _DAY), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"last sign of life {seconds / length:.0f} {unit} ago"
    return f"last sign of life {seconds:.0f} s ago" if seconds >= 0 else "last sign of life in the future"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
