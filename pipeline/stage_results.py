"""How a stage's task on Ray ended."""

import time
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import full_disk
from pipeline.progress import MadeItems
from pipeline.results import StageResult
from stages.contract.errors import DamagedFile, EndRequested, InputFault, InputLost
from stages.contract.secrets import redact


def result_of(ref: "ray.ObjectRef[Any]", name: str, lost: str) -> StageResult:
    """Return how a stage's task that has ended did so, without its times; ``lost`` says how its process was lost."""
    try:
        return StageResult(name, "done", summary=ray.get(ref))
    except RayTaskError as error:
        if isinstance(error.cause, InputLost):
            return StageResult(name, "blocked", error=str(error.cause))
        if isinstance(error.cause, EndRequested):
            return StageResult(name, "interrupted")
        bad_input = isinstance(error.cause, InputFault)
        damage = error.cause if isinstance(error.cause, DamagedFile) else None
        trace = redact("\n".join([str(error), *getattr(error.cause, "__notes__", ())]))
        cause = redact(_cause(error))
        return StageResult(name, "failed", error=cause, bad_input=bad_input, trace=trace, damage=damage)
    except RayError as error:
        return StageResult(name, "failed", error=lost, trace=redact(str(error)))


def measured(result: StageResult, began: float, made: MadeItems) -> StageResult:
    """Return the result of a stage that ends now with its times and what it made, by when it began and its reports."""
    ended = time.monotonic()
    startup = (made.first_report or ended) - began
    count = None if result.summary is None else made.of(result.summary.items)
    return replace(result, seconds=ended - began, startup_seconds=startup, made=count)


def _cause(error: RayTaskError) -> str:
    cause = error.cause
    known = type(cause).__module__.split(".")[0] in {"stages", "cluster", "models", "pipeline"}
    return str(cause) if known else full_disk(cause) or f"{type(cause).__name__}: {cause}"
