"""How a stage ended: by an error that it raised, in which time, and what it made."""

import time
from dataclasses import replace

from pipeline.errors import full_disk
from pipeline.progress import MadeItems
from pipeline.results import StageResult
from stages.contract.errors import DamagedFile, EndRequested, InputFault, InputLost
from stages.contract.secrets import redact


def ended_by(name: str, cause: BaseException, trace: str) -> StageResult:
    """Return how a stage ended, without its times, by the error that it raised, whose trace this is."""
    if isinstance(cause, InputLost):
        return StageResult(name, "blocked", error=str(cause))
    if isinstance(cause, EndRequested):
        return StageResult(name, "interrupted")
    damage = cause if isinstance(cause, DamagedFile) else None
    whole = redact("\n".join([trace, *getattr(cause, "__notes__", ())]))
    return StageResult(
        name,
        "failed",
        error=redact(describe(cause)),
        bad_input=isinstance(cause, InputFault),
        trace=whole,
        damage=damage,
    )


def measured(result: StageResult, began: float, made: MadeItems) -> StageResult:
    """Return the result of a stage that ends now with its times and what it made, by when it began and its reports."""
    ended = time.monotonic()
    startup = (made.first_report or ended) - began
    count = None if result.summary is None else made.of(result.summary.items)
    return replace(result, seconds=ended - began, startup_seconds=startup, made=count)


def describe(cause: BaseException) -> str:
    """Return an error in words; of one that is not ours, with its type."""
    known = type(cause).__module__.split(".")[0] in {"stages", "cluster", "models", "pipeline"}
    return str(cause) if known else full_disk(cause) or f"{type(cause).__name__}: {cause}"
