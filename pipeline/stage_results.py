"""How a stage ended that raised an error."""

from pipeline.errors import full_disk
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


def describe(cause: BaseException) -> str:
    """Return an error in words; of one that is not ours, with its type."""
    known = type(cause).__module__.split(".")[0] in {"stages", "cluster", "models", "pipeline"}
    return str(cause) if known else full_disk(cause) or f"{type(cause).__name__}: {cause}"
