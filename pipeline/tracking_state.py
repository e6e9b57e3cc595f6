"""What is known of an MLflow run, and how MLflow wants things to be named."""

import contextlib
import hashlib
import json
import math
import os
import re
import sys
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stages.contract.events import LoggedSteps, RolledBack

ROLLED_BACK_TO: Final = "rolled_back_to"
"""The number that says, at the step after which a training rolled back, to which step it went back."""
_LONGEST_PARAM = 6000
_DIGEST_LENGTH = 8


def clean(name: str) -> str:
    """Replace what MLflow does not allow in names; letters and digits are those of any script, as in its own rule."""
    return re.sub(r"[^\w\-. /]", "_", name)


def distinct_names(names: Iterable[str]) -> dict[str, str]:
    """Return what MLflow is to call each of the names, which stand beside one another: no two alike.

    Where several would be alike (``a&b`` and ``a:b``, or words that only their vowel signs tell apart), each that has
    to change ends with a digest of itself: what a name stands for does not depend on the order.
    """
    cleaned = {name: clean(name) for name in names}
    uses = Counter(cleaned.values())
    return {
        name: found if found == name or uses[found] == 1 else f"{found}_{_digest(name)}"
        for name, found in cleaned.items()
    }


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]


def flatten(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a nested config as dotted keys; lists stay whole, as JSON."""
    values = dict(_dotted(config, ""))
    for name, called in distinct_names(values).items():
        value = values[name]
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        yield called, text[:_LONGEST_PARAM]


def _dotted(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def image_file(run_id: str, name: str, step: int, time: int) -> str:
    """Return the name that ``log_image`` gives, without its ending; the same image always gets the same one."""
    key = clean(name).replace("/", "~")
    return f"images/{key}+step+{step}+timestamp+{time}+{uuid.uuid5(uuid.NAMESPACE_OID, f'{run_id} {key} {step}')}"


def image_of(path: str) -> tuple[str, int, int] | None:
    """Read name, step and time in milliseconds off such a file name."""
    name = path.rpartition("images/")[2] if "images/" in path else ""
    match = re.match(r"(.+)\+step\+(\d+)\+(?:timestamp\+(\d+)\+)?", name)
    return (match[1], int(match[2]), int(match[3] or 0)) if match else None


@contextlib.contextmanager
def long_calls(variable: str, seconds: int) -> Iterator[None]:
    """Give a server time to store a large file before it replies; the variable holds its usual time."""
    usual = os.environ[variable]
    os.environ[variable] = str(max(int(usual), seconds))
    try:
        yield
    finally:
        os.environ[variable] = usual


def roll_backs_of(client: Any, run_id: str) -> tuple[RolledBack, ...]:
    """Return the roll backs that an MLflow run holds, as the numbers :data:`ROLLED_BACK_TO`."""
    found = client.get_metric_history(run_id, ROLLED_BACK_TO)
    return tuple(RolledBack(int(one.value), one.step, one.timestamp) for one in found)


def is_discarded(roll_backs: Iterable[RolledBack], step: int, time: int) -> bool:
    """Whether a roll back has discarded what was reported of a step at a time."""
    return any(one.discards(step, time) for one in roll_backs)


def _is_same(known: float, value: float) -> bool:
    """Whether a number that MLflow may have returned is this one: its databases keep infinity as the largest number."""
    kept = math.copysign(sys.float_info.max, value) if math.isinf(value) else value
    return known in (value, kept) or (math.isnan(known) and math.isnan(value))


@dataclass
class TrackedRun:
    """One MLflow run, what counts of what it holds or is to hold, and what is still to be sent.

    MLflow deletes no numbers: what a roll back discards stays there. So the roll back itself is a number,
    :data:`ROLLED_BACK_TO`, and whatever reads a run leaves out what is discarded by it.
    """

    run_id: str
    params: dict[str, str] = field(default_factory=dict)
    steps: dict[tuple[str, int], int] = field(default_factory=dict)
    """Time in milliseconds of the number that counts, by name and step."""
    figures: dict[str, float] = field(default_factory=dict)
    """The number that counts at step 0, by name."""
    images: dict[tuple[str, int], int] = field(default_factory=dict)
    waiting: dict[tuple[str, int, int], float] = field(default_factory=dict)
    """Numbers by name, step and time."""
    roll_backs: set[RolledBack] = field(default_factory=set)
    open: bool = True
    ended: int = 0

    @classmethod
    def of(cls, client: Any, run: Any) -> "TrackedRun":
        """Return one that MLflow has."""
        run_id = run.info.run_id
        made = cls(run_id, dict(run.data.params), open=run.info.status == "RUNNING", ended=run.info.end_time or 0)
        if ROLLED_BACK_TO in run.data.metrics:
            made.roll_backs.update(roll_backs_of(client, run_id))
        for key in run.data.metrics.keys() - {ROLLED_BACK_TO}:
            for entry in sorted(client.get_metric_history(run_id, key), key=lambda one: (one.timestamp, one.value)):
                if not is_discarded(made.roll_backs, entry.step, entry.timestamp):
                    made.steps[key, entry.step] = entry.timestamp
                    if entry.step == 0:
                        made.figures[key] = entry.value
        for file in client.list_artifacts(run_id, "images"):
            image = image_of(file.path)
            if image is not None and not is_discarded(made.roll_backs, *image[1:]):
                made.images[image[:2]] = image[2]
        return made

    def add(self, values: Mapping[str, float], time_ms: int, step: int = 0) -> None:
        """Queue numbers; a (name, step) that was recorded before a resume is not recorded twice."""
        if is_discarded(self.roll_backs, step, time_ms):
            return
        for name, called in distinct_names(values).items():
            key, value = (called, step), values[name]
            if key not in self.steps:
                self._queue(key, float(value), time_ms)

    def set_figures(self, values: Mapping[str, float], time_ms: int) -> None:
        """Queue figures of the whole, which stand at step 0; one that differs replaces that of an earlier time.

        A stage that is made again has other figures, and of two points at a step MLflow shows the later. What is
        recorded twice, or belatedly after its successor, counts once.
        """
        for name, called in distinct_names(values).items():
            key, value = (called, 0), values[name]
            known = self.steps.get(key, -1)
            if time_ms >= known and not (key in self.steps and _is_same(self.figures[key[0]], float(value))):
                self.waiting.pop((*key, known), None)
                self._queue(key, float(value), max(time_ms, known + 1))

    def set_counts(self, prefix: str, counts: Mapping[str, float], time_ms: int) -> None:
        """Queue all counts whose names begin so, as figures; one that is not among them any more is 0."""
        gone = {name: 0.0 for name in self.figures if name.startswith(prefix)}
        names = distinct_names(f"{prefix}{name}" for name in counts)
        self.set_figures(gone | dict(zip(names.values(), counts.values(), strict=True)), time_ms)

    def set_if_known(self, name: str, value: float | None, time_ms: int) -> None:
        """Queue a figure of the whole; one that is not known any more is NaN, and one that never was is not there."""
        if value is not None or clean(name) in self.figures:
            self.set_figures({name: math.nan if value is None else value}, time_ms)

    def _queue(self, key: tuple[str, int], value: float, time_ms: int) -> None:
        self.steps[key] = time_ms
        self.waiting[*key, time_ms] = value
        if key[1] == 0:
            self.figures[key[0]] = value

    def roll_back(self, event: RolledBack) -> None:
        """Queue a roll back, and forget what it discards, so that the same steps can be recorded again."""
        for key, time in list(self.steps.items()):
            if event.discards(key[1], time):
                del self.steps[key]
                self.waiting.pop((*key, time), None)
        self.images = {key: time for key, time in self.images.items() if not event.discards(key[1], time)}
        if event not in self.roll_backs:
            self.roll_backs.add(event)
            self.waiting[ROLLED_BACK_TO, event.from_step, event.time] = float(event.to_step)

    def add_logged(self, event: LoggedSteps, time_ms: int) -> None:
        """Queue what is missing of what a training had logged before; ``time_ms``: of rows without a time."""
        for roll_back in event.roll_backs:
            self.roll_back(roll_back)
        for row in event.rows:
            self.add(row.values, row.time or time_ms, row.step)

    def forget_waiting(self) -> None:
        """Leave out what waits: whoever gave it gives it again."""
        for (name, step, time), value in self.waiting.items():
            if name == ROLLED_BACK_TO:
                self.roll_backs.discard(RolledBack(int(value), step, time))
            else:
                del self.steps[name, step]
                if step == 0:
                    del self.figures[name]
        self.waiting.clear()

    def without_curves(self, values: Mapping[str, float]) -> dict[str, float]:
        """Leave out the numbers that have a curve already: a point at step 0 would be a false one in it."""
        curves = {name for name, step in self.steps if step > 0}
        return {name: values[name] for name, called in distinct_names(values).items() if called not in curves}
