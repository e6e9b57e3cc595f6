"""``python -m tests.chaos``: see :mod:`tests.chaos`."""

import argparse
import json
import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import NoReturn

from rich.console import Console

from tests.chaos.fault import Fault, NotHere
from tests.chaos.faults import FAULTS
from tests.chaos.leftovers import shared_memory
from tests.chaos.report import document, show
from tests.chaos.trial import Outcome, run_trial
from tests.chaos.world import ISOLATED, World, make_world

#: Of these, which need no training and no servers, the short part tries each once; the long one begins with them.
SHORT = (
    "kill a shard worker", "rot in image embeddings", "kill the driver and all below", "kill the mailbox",
    "stop a shard worker for 2 s", "rot in shard tars",
)  # fmt: skip


_MOST_MISSED = 3  # trials of a fault that found nothing to strike
_ENDING = 30.0  # seconds that it may take to break the trials off


def main() -> int:
    """Run trials until the time is over, print what came of them, and return the exit code."""
    words = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break runs at random moments.")
    words.add_argument(
        "--seconds", type=float, default=150.0, help="after so long beyond the undisturbed run, no trial starts"
    )
    words.add_argument(
        "--at-most", type=float, default=math.inf, metavar="SECONDS",
        help="end after so long in any case: trials that are under way are broken off, and not counted",
    )  # fmt: skip
    words.add_argument("--seed", type=int, default=0, help="another seed strikes at other moments")
    words.add_argument("--only", action="append", default=[], metavar="FAULT", help="a beginning will do; repeatable")
    words.add_argument("--json", type=Path, metavar="FILE", help="write all that was found, trial by trial")
    words.add_argument("--jobs", type=int, default=2, help="trials at a time")
    words.add_argument("--short", action="store_true", help="only a few faults, once each")
    words.add_argument("--list", action="store_true", help="list the faults")
    given = words.parse_args()
    chosen = [fault for name, fault in FAULTS.items() if not given.only or name.startswith(tuple(given.only))]
    chosen = [fault for fault in chosen if not given.short or fault.name in SHORT]
    if given.list or not chosen:
        Console().print("\n".join(FAULTS), markup=False, highlight=False)
        return int(not given.list)
    if os.geteuid() == 0 and ISOLATED not in os.environ:
        _run_apart()
    begun = time.monotonic()
    suite = _Suite(_ordered(chosen), given.seed, once=given.short, file=given.json, end=begun + given.at_most)
    _run_trials(suite, given.jobs, given.seconds)
    seconds = time.monotonic() - begun
    total = sum(one.injections for one in suite.outcomes)
    title = f"{total} injections in {len(suite.outcomes)} trials, {seconds:.0f} s, seed {given.seed}"
    show(Console(width=150), suite.outcomes, suite.not_here, title)
    return int(not suite.outcomes or not all(one.holds for one in suite.outcomes))


def _run_apart() -> NoReturn:
    """Go on in mounts of its own, with an empty /dev/shm, so that what is left there can be seen; same process id."""
    script = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
    os.execvpe(command[0], command, os.environ | {ISOLATED: "1"})


def _ordered(chosen: Sequence[Fault]) -> list[Fault]:
    """Return the faults in the order in which they are tried: in a short time, the usual ones first."""
    names = [fault.name for fault in chosen]
    first = [FAULTS[name] for name in SHORT if name in names]
    return [*first, *(fault for fault in chosen if fault.name not in SHORT)]


def _run_trials(suite: "_Suite", jobs: int, seconds: float) -> None:
    training = any(name.startswith("train_") for fault in suite.faults for name in fault.makes)
    with make_world(training=training) as world, ThreadPoolExecutor(jobs) as pool:
        suite.until = time.monotonic() + seconds
        for done in [pool.submit(suite.work, world) for _ in range(jobs)]:
            done.result()
        if world.isolated and (left := shared_memory()):
            suite.add(Outcome("all together", injections=1, finished=True, leftovers=left))


class _Suite:
    """The faults, how often each was tried, and what came of it."""

    def __init__(self, faults: list[Fault], seed: int, *, once: bool, file: Path | None, end: float) -> None:
        self.faults, self.until = faults, 0.0
        self._end = end - _ENDING
        self._seed, self._once, self._file = seed, once, file
        self._turns: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.outcomes: list[Outcome] = []
        self.not_here: dict[str, str] = {}

    def add(self, outcome: Outcome) -> None:
        """Add what a trial came to, and write all that was found so far."""
        with self._lock:
            self.outcomes.append(outcome)
            if self._file is not None:
                found = document(self.outcomes, self.not_here, self._seed)
                self._file.write_text(json.dumps(found, indent=1) + "\n")

    def work(self, world: World) -> None:
        """Run one trial after another until the time is over."""
        while (turn := self._next()) is not None:
            fault, rng = turn
            begun = time.monotonic()
            try:
                outcome = run_trial(fault, world, rng, deadline=min(begun + fault.longest, self._end))
            except NotHere as error:
                self.not_here[fault.name] = str(error)
                continue
            if time.monotonic() > self._end and not outcome.finished:
                sys.stderr.write(f"{fault.name}: broken off at the end of the time\n")
                continue
            if not outcome.injections and self._is_given_another_turn(fault):
                sys.stderr.write(f"{fault.name}: the run was over before it struck\n")
                continue
            self.add(outcome)
            state = "holds" if outcome.holds else "DOES NOT HOLD"
            sys.stderr.write(f"{fault.name}: {outcome.injections} times in {time.monotonic() - begun:.0f} s: {state}\n")

    def _is_given_another_turn(self, fault: Fault) -> bool:
        """Whether a fault that found nothing to strike is tried again: it may be chance, and not for ever."""
        with self._lock:
            self._missed[fault.name] += 1
            self._turns[fault.name] -= self._missed[fault.name] < _MOST_MISSED
            return self._missed[fault.name] < _MOST_MISSED

    def _next(self) -> tuple[Fault, Random] | None:
        """Return a fault that was tried least often, and the chance of its trial."""
        with self._lock:
            left = [one for one in self.faults if one.name not in self.not_here]
            left = [one for one in left if not (self._once and self._turns[one.name])]
            if not left or time.monotonic() >= min(self.until, self._end):
                return None
            fault = min(left, key=lambda one: self._turns[one.name])
            self._turns[fault.name] += 1
            chance = f"{self._seed}/{fault.name}/{self._turns[fault.name] + self._missed[fault.name]}"
            return fault, Random(chance)


if __name__ == "__main__":
    sys.exit(main())
