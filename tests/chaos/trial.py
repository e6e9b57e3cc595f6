"""One trial: a run under several injections of one fault, started again until it is done, and what came of it."""

import contextlib
import re
import sqlite3
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from safetensors.numpy import load_file

from tests.chaos.fault import Fault, Injection, Setting
from tests.chaos.leftovers import find_leftovers
from tests.chaos.world import IMAGES, IMAGES_PER_SHARD, STAGES, STEPS, World

_POLL = 0.1
_LATEST = 0.8  # of what is left to do, so that there is something left to break
_LOSS_TOLERANCE = 1e-3
_KEPT = 6000  # characters
_ENDS = {0: "done", 2: "refused", 3: "failed", 130: "interrupted", 143: "terminated"}
SHARDS = IMAGES // IMAGES_PER_SHARD


@dataclass
class Outcome:
    """What a trial came to."""

    fault: str
    injections: int = 0
    finished: bool = False
    seconds_lost: float = 0.0
    redone: int = 0
    """Finished units that were made again."""
    destroyed: int = 0
    """Finished units that the injections destroyed, which have to be made again."""
    unanswered: int = 0
    """Records that may have been written without an answer, and were written again."""
    differing: int = 0
    leftovers: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    what: list[str] = field(default_factory=list)
    """What was done, and how each run ended."""
    logs: list[str] = field(default_factory=list)
    """What each run said, or the end of it."""

    @property
    def holds(self) -> bool:
        """Whether the fault's promise held."""
        return (
            self.finished
            and self.injections > 0
            and not (self.differing or self.leftovers or self.complaints)
            and not self.redone_in_vain
        )

    @property
    def redone_in_vain(self) -> int:
        return max(0, self.redone - self.destroyed - self.unanswered)

    def to_json(self) -> dict[str, Any]:
        """Return all of it; what was said only where the promise was broken."""
        return asdict(self) | {"holds": self.holds, "logs": [] if self.holds else self.logs}


def run_trial(fault: Fault, world: World, rng: Random, *, deadline: float) -> Outcome:
    """Run the trial; NotHere: this machine does not allow the fault."""
    outcome = Outcome(fault.name)
    with world.apart() as own, fault.setting(own) as setting:
        begun = time.monotonic()
        trial = _Trial(fault, setting, rng, outcome, deadline=deadline)
        trial.run()
        undisturbed = world.seconds["train_prior" if "train_prior" in fault.makes else "data"]
        outcome.seconds_lost = time.monotonic() - begun - undisturbed
        outcome.redone = len(trial.ledger.redone)
        outcome.what += [f"made again: {name}" for name in trial.ledger.redone]
        _compare(setting, fault, outcome)
        outcome.leftovers += [f"a partial file {name}" for name in setting.view.partial_files()]
    return outcome


class _Trial:
    """Runs and injections, until a run is done."""

    def __init__(self, fault: Fault, setting: Setting, rng: Random, outcome: Outcome, *, deadline: float) -> None:
        self._fault, self._setting, self._rng, self._outcome = fault, setting, rng, outcome
        self._deadline = deadline
        self.ledger = _Ledger(setting)

    def run(self) -> None:
        """Start runs until all drivers end well."""
        for _ in range(2 * self._fault.times + 3):
            if self._fault.when == "before":
                while self._left and self._strike():
                    pass
            codes = self._run_once()
            if all(code == 0 for code in codes):
                self._outcome.finished = True
                return
            if time.monotonic() > self._deadline:
                return

    @property
    def _left(self) -> int:
        return self._fault.times - self._outcome.injections

    def _run_once(self) -> list[int]:
        """Run all drivers to their ends, and strike meanwhile."""
        setting, stages = self._setting, self._fault.makes
        setting.world.log.unlink(missing_ok=True)
        self._fault.mend(setting)
        setting.runs = [
            setting.world.start(
                setting.view.uri, stages, words=setting.words, environment=more, within=setting.within
            )
            for more in setting.environments
        ]  # fmt: skip
        try:
            self._strike_at_random()
            codes = [run.process.wait() for run in setting.runs]
            self._outcome.what.append(" and ".join(_ENDS.get(code, f"exit {code}") for code in codes))
            _note_words(setting.world.log, codes, self._outcome)
            self._set_damage_aside()
            self._outcome.leftovers += find_leftovers(setting, killed=any(code < 0 for code in codes))
        finally:
            for run in setting.runs:
                run.end()
            setting.runs = []
        return codes

    def _set_damage_aside(self) -> None:
        """Do what the run asks its user to."""
        words = " ".join(self._setting.world.log.read_text(errors="replace").split())  # lines are wrapped
        said = re.findall(r"`corgi verify (\S+) --set-aside`", words)
        for address in sorted(set(said)):
            self._outcome.what.append(f"corgi verify --set-aside: exit {self._setting.world.verify(address)}")

    def _strike_at_random(self) -> None:
        """Strike whenever a random part of what is left to do is done, until the drivers have ended."""
        stages, rng = self._fault.makes, self._rng
        begun = self.ledger.progress(stages)
        left = self._left if self._fault.when == "during" else 0
        marks = sorted(begun + _LATEST * rng.random() * (1 - begun) for _ in range(left))
        while any(run.is_running for run in self._setting.runs):
            now = self.ledger.progress(stages)
            for run in self._setting.runs:
                run.tree()
            if marks and now >= marks[0]:
                time.sleep(rng.uniform(0.0, 0.3))
                if self._strike():
                    marks = marks[1:]
            if time.monotonic() > self._deadline:
                self._outcome.complaints.append("a run did not end in time")
                for run in self._setting.runs:
                    run.end()
            time.sleep(_POLL)
        self.ledger.progress(stages)

    def _strike(self) -> Injection | None:
        self.ledger.progress(self._fault.makes)
        injection = self._fault.inject(self._setting, self._rng)
        if injection is not None:
            self._outcome.injections += 1
            self._outcome.destroyed += injection.destroyed
            self._outcome.unanswered += injection.unanswered
            self._outcome.what.append(injection.what)
            if injection.destroyed:
                self.ledger.accept()
        return injection


def _note_words(log: Path, codes: list[int], outcome: Outcome) -> None:
    """Look at what the runs said: a fault is reported in a sentence, never by a traceback."""
    text = log.read_text(errors="replace")
    outcome.logs.append(text[-_KEPT:])
    if (at := text.find("Traceback (most recent call last)")) >= 0:
        ends = [line for line in text[at:].splitlines()[1:] if line[:1].strip()]
        outcome.complaints.append(f"a traceback at the user: {(ends or [''])[0][:200]}")
        outcome.logs.append(text[at : at + _KEPT])
    if any(code not in (0, -9) for code in codes):
        lines = [line for line in text.splitlines() if line.startswith("corgi:") or ": failed" in line]
        outcome.what += [line[:300] for line in lines[-2:]]


class _Ledger:
    """How far the runs of a trial are, and which finished units were made again."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._known: dict[str, str] = dict(setting.view.records())
        self.redone: list[str] = []

    def accept(self) -> None:
        """Take the records as they are now, damaged by a fault."""
        self._known |= self._setting.view.records()

    def progress(self, stages: tuple[str, ...]) -> float:
        """Look at all records; return how much of the stages is done, from 0 to 1."""
        found = self._setting.view.records()
        for name, version in found.items():
            if self._known.setdefault(name, version) != version:
                self.redone.append(name)
        self._known |= found
        parts = [_fraction(stage, found) for stage in stages]
        return sum(parts) / len(parts)


def _fraction(stage: str, records: Any) -> float:
    own = [name.partition("/")[2] for name in records if name.startswith(f"{stage}/")]
    if stage.startswith("train_"):
        steps = [int(name.rpartition("_")[2]) for name in own if name.rpartition("_")[2].isdigit()]
        return 1.0 if "model" in own else max(steps, default=0) / STEPS
    return min(1.0, len(own) / SHARDS) if own else 0.0


def _compare(setting: Setting, fault: Fault, outcome: Outcome) -> None:
    reference = setting.world.reference
    for stage in STAGES[: STAGES.index(fault.makes[-1]) + 1]:
        if stage.startswith("train_"):
            _compare_training(setting, stage, outcome)
            continue
        expected, found = reference.digests(stage), setting.view.digests(stage)
        names = {name for name in {*expected, *found} if expected.get(name) != found.get(name)}
        outcome.differing += len(names)
        outcome.complaints += [f"{stage}/{name} differs" for name in sorted(names)[:3]]


def _compare_training(setting: Setting, stage: str, outcome: Outcome) -> None:
    """Compare the losses of all steps, which show the order of the data, and the weights."""
    folder = Path(setting.view.uri)
    expected, found = _losses(setting.world.reference.folder, stage), _losses(folder, stage)
    missing = sum(step not in found for step in expected)
    odd = [step for step in expected if step in found and not _close(expected[step], found[step])]
    if odd:
        outcome.complaints.append(f"{stage}: {len(odd)} of {len(expected)} steps have another loss, first {odd[0]}")
    if missing:
        outcome.complaints.append(f"{stage}: {missing} of {len(expected)} steps have no loss")
    for path in setting.world.reference.folder.glob(f"artifacts/{stage}/*/*.safetensors"):
        mine = folder / path.relative_to(setting.world.reference.folder)
        if not mine.exists() or _differs(path, mine):
            outcome.differing += 1
            outcome.complaints.append(f"{stage}: the weights in {path.name} differ")


def _losses(folder: Path, stage: str) -> dict[int, float]:
    query = (
        "SELECT step, value FROM metrics JOIN runs USING (run_uuid) WHERE name = ? AND key = 'loss' ORDER BY timestamp"
    )
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return dict(connection.execute(query, (stage,)).fetchall())


def _close(expected: float, found: float) -> bool:
    return abs(found - expected) <= _LOSS_TOLERANCE * max(1.0, abs(expected))


def _differs(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one), load_file(other)
    if ours.keys() != theirs.keys():
        return True
    return any(abs(ours[name].astype(float) - theirs[name].astype(float)).max() > _LOSS_TOLERANCE for name in ours)
