"""How stages end, and who is told of what happens in a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pipeline.plan import PlannedStage
from pipeline.store import Store
from stages.contract.events import Event
from stages.contract.stage import Allocation


@dataclass(frozen=True)
class StageResult:
    """How one stage ended; ``seconds`` counts from its dispatch, ``startup_seconds`` to its first progress."""

    name: str
    state: Literal["done", "reused", "failed", "blocked"]
    seconds: float = 0.0
    startup_seconds: float = 0.0
    summary: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    bad_input: bool = False  # the stage refused what it was given; nothing is wrong with the machines or the code
    trace: str = ""
    upstream: tuple[str, ...] = ()  # inputs that were still being made when it started


class Observer(Protocol):
    """Who is told what happens (progress view, tracker, logs)."""

    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        """Say that a stage starts."""

    def event(self, name: str, event: Event) -> None:
        """Say what a running stage reported."""

    def finished(self, result: StageResult) -> None:
        """Say how a stage ended."""


def reused_result(stage: PlannedStage, store: Store) -> StageResult:
    """Return the result of a stage that is already complete in the store."""
    manifest = store.artifact(stage.name, stage.fingerprint).manifest
    return StageResult(stage.name, "reused", summary=manifest["summary"])
