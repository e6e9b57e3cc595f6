"""What is known of an MLflow run, and how MLflow wants things to be named."""

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_LONGEST_PARAM = 6000


def clean(name: str) -> str:
    """Replace what MLflow does not allow in names."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a nested config as dotted keys; lists stay whole, as JSON."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield clean(name), text[:_LONGEST_PARAM]


def image_file(run_id: str, name: str, step: int, time: int) -> str:
    """Return the name that ``log_image`` gives, without its ending; the same image always gets the same one."""
    key = clean(name).replace("/", "~")
    return f"images/{key}+step+{step}+timestamp+{time}+{uuid.uuid5(uuid.NAMESPACE_OID, f'{run_id} {key} {step}')}"


def image_of(path: str) -> tuple[str, int] | None:
    """Read name and step off such a file name."""
    match = re.search(r"images/(.+)\+step\+(\d+)\+", path)
    return (match[1], int(match[2])) if match else None


@contextlib.contextmanager
def long_calls(variable: str, seconds: int) -> Iterator[None]:
    """Give a server time to store a large file before it replies; the variable holds its usual time."""
    usual = os.environ[variable]
    os.environ[variable] = str(max(int(usual), seconds))
    try:
        yield
    finally:
        os.environ[variable] = usual


def steps_of(client: Any, run: Any) -> set[tuple[str, int]]:
    """Return name and step of all numbers that an MLflow run holds."""
    histories = (client.get_metric_history(run.info.run_id, key) for key in run.data.metrics)
    return {(entry.key, entry.step) for history in histories for entry in history}


@dataclass
class TrackedRun:
    """One MLflow run, what it holds already, and what is still to be sent."""

    run_id: str
    params: dict[str, str] = field(default_factory=dict)
    steps: set[tuple[str, int]] = field(default_factory=set)
    images: set[tuple[str, int]] = field(default_factory=set)
    waiting: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    """Value and time in milliseconds, by name and step."""
    open: bool = True
    ended: int = 0

    def add(self, values: Mapping[str, float], time_ms: int, step: int = 0) -> None:
        """Queue numbers; a (name, step) that was recorded before a resume is not recorded twice."""
        for name, value in values.items():
            key = (clean(name), step)
            if key not in self.steps:
                self.waiting.setdefault(key, (float(value), time_ms))

    def without_curves(self, values: Mapping[str, float]) -> dict[str, float]:
        """Leave out the numbers that have a curve already: a point at step 0 would be a false one in it."""
        curves = {name for name, step in (*self.steps, *self.waiting) if step > 0}
        return {name: value for name, value in values.items() if clean(name) not in curves}
