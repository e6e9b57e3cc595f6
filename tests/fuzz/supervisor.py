"""Start the processes that try inputs, end those that hang, count those that die, and start them again."""

import json
import multiprocessing
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.fuzz.child import Job, State, Tally, count, keep_finding, run_child
from tests.fuzz.target import Outcome, Target

MOST_SECONDS = 5.0
"""Of a processor, for one input."""
_MOST_WAITING = 30.0  # seconds that an input may take without a processor: the machine may be busy
_POLL = 0.2


@dataclass
class Worker:
    """A child process and what came of it so far."""

    targets: Sequence[Target]
    folder: Path
    numbers: list[int]
    left: list[float]
    """Seconds of each target's part that are not used up."""
    process: Any = None
    started: float = 0.0
    tallies: dict[str, Tally] = field(default_factory=dict)

    def start(self, seed: int, findings: Path) -> None:
        """Start the process at the numbers where it is to go on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tallies.json").unlink(missing_ok=True)
        State(self.folder / "state").write(0.0, 0, 0)
        job = Job(seed, self.targets, tuple(self.left), tuple(self.numbers), self.folder, findings)
        self.process = multiprocessing.get_context("spawn").Process(target=_run, args=(job_names(job),), daemon=False)
        self.process.start()
        self.started = time.time()

    def collect(self) -> None:
        """Add what the process has counted."""
        file = self.folder / "tallies.json"
        if not file.exists():
            return
        content = json.loads(file.read_text())
        for name, found in content["tallies"].items():
            add(self.tallies.setdefault(name, Tally()), Tally(**found))
        self.numbers, self.left = content["numbers"], content["left"]
        file.unlink()


def job_names(job: Job) -> dict[str, Any]:
    """Return the job with the targets' names, as functions cannot be sent."""
    return {**job.__dict__, "targets": [target.name for target in job.targets]}


def _run(job: dict[str, Any]) -> None:
    from tests.fuzz.targets import TARGETS

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor ends it
    run_child(Job(**{**job, "targets": [TARGETS[name] for name in job["targets"]]}))


def add(tally: Tally, more: Tally) -> None:
    """Add one tally to another."""
    tally.inputs += more.inputs
    tally.seconds += more.seconds
    tally.slowest, tally.largest = max(tally.slowest, more.slowest), max(tally.largest, more.largest)
    for kind, number in more.kinds.items():
        tally.kinds[kind] = tally.kinds.get(kind, 0) + number
    for file, number in more.findings.items():
        tally.findings[file] = tally.findings.get(file, 0) + number


def run_targets(
    targets: Sequence[Target], *, seed: int, seconds: float, jobs: int, folders: tuple[Path, Path]
) -> dict[str, Tally]:
    """Try inputs of all targets for so long, in so many processes; return what was counted by target.

    Each process shares its time out to its targets by their weight; what a target takes to start comes on top of it.
    """
    scratch, findings = folders
    parts = [targets[first::jobs] for first in range(min(jobs, len(targets)))]
    workers = [Worker(part, scratch / str(n), [0] * len(part), parts_of(seconds, part)) for n, part in enumerate(parts)]
    for worker in workers:
        worker.start(seed, findings)
    try:
        running = list(workers)
        while running:
            time.sleep(_POLL)
            running = [worker for worker in running if _go_on(worker, seed, findings)]
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
    merged = {target.name: Tally() for target in targets}  # also of those that tried none
    for worker in workers:
        for name, tally in worker.tallies.items():
            add(merged[name], tally)
    return merged


def parts_of(seconds: float, targets: Sequence[Target]) -> list[float]:
    """Return each target's part of the seconds, by their weight."""
    whole = sum(target.weight for target in targets)
    return [seconds * target.weight / whole for target in targets]


def _go_on(worker: Worker, seed: int, findings: Path) -> bool:
    """End or restart a process where that is needed; return whether it still works."""
    over = _is_over_time(worker)
    if over:
        worker.process.kill()
    elif worker.process.is_alive():
        return True
    worker.process.join()
    code = worker.process.exitcode
    begun, _, position, number = State(worker.folder / "state").read()
    worker.collect()
    if over or code not in (0, 3):
        outcome = _outcome(worker, over, code)
        _count_death(worker, position, outcome, findings)
        if begun == 0.0 and number == worker.numbers[position] and worker.numbers[position] == 0:
            raise SystemExit(f"{worker.targets[position].name} does not start: {outcome.detail}")
    if code == 0 and not over:
        return False
    worker.numbers[position] = max(worker.numbers[position], number + 1)
    if code != 3:  # the slice in which it died was not counted
        worker.left[position] -= time.time() - (begun or worker.started)
    if max(worker.left) <= 0:
        return False
    worker.start(seed, findings)
    return True


def _is_over_time(worker: Worker) -> bool:
    if not worker.process.is_alive():
        return False
    begun, used, _, _ = State(worker.folder / "state").read()
    if begun == 0.0:
        return False
    try:
        times = psutil.Process(worker.process.pid).cpu_times()
    except psutil.Error:
        return False
    return times.user + times.system - used > MOST_SECONDS or time.time() - begun > _MOST_WAITING


def _outcome(worker: Worker, over: bool, code: int | None) -> Outcome:
    log = worker.folder / "stderr"
    said = log.read_text(errors="replace")[-3000:] if log.exists() else ""
    if over:
        return Outcome("hang", f"more than {MOST_SECONDS:.0f} s of a processor, or no end")
    name = signal.Signals(-code).name if code and code < 0 else f"exit {code}"
    return Outcome("crash", f"{name}\n{said}", name)


def _count_death(worker: Worker, position: int, outcome: Outcome, findings: Path) -> None:
    target, current = worker.targets[position], worker.folder / "current"
    tally = worker.tallies.setdefault(target.name, Tally())
    count(tally, outcome, 0.0, 0)
    data = current.read_bytes() if current.exists() else b""
    keep_finding(findings, target.name, data, outcome, tally)
    for leftover in worker.folder.glob("scratch*"):
        shutil.rmtree(leftover, ignore_errors=True)
