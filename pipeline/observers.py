"""What observes a run: the terminal, the log files, and the tracker."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.outbox.delivery import Delivery
from pipeline.outbox.operations import (
    ConfigLogged,
    ImageLogged,
    MetricsLogged,
    Operation,
    RunEnd,
    RunEnded,
    StageBegun,
    StageEnded,
)
from pipeline.plan import PlannedStage
from pipeline.record import MlflowRuns, StageState
from pipeline.results import StageResult
from pipeline.terminal import indented
from pipeline.view import RunView
from stages.contract.events import Event, Log, LoggedImage, Metrics
from stages.contract.secrets import redact
from stages.contract.stage import Allocation
from stages.contract.texts import printable


class RunObserver:
    """Passes every report on: to the terminal, to the log files, and to MLflow, for which nothing here waits."""

    def __init__(
        self, view: RunView, log_folder: Path, delivery: Delivery, save_tracking: Callable[[MlflowRuns], None]
    ) -> None:
        self.view = view
        self._log_folder = log_folder
        self._delivery = delivery
        self._save_tracking = save_tracking
        self._intervals: list[tuple[float, float]] = []
        self.results: dict[str, StageResult] = {}
        self._running: dict[str, float] = {}

    def opened(self, config: dict[str, Any], text: str) -> None:
        """Record the config before anything runs; UsageError: the tracking server's address is wrong."""
        self._delivery.await_first()
        self._delivery.put(ConfigLogged(config=config, text=text))
        self._save_tracking(self._delivery.runs)

    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        """Pass on that a stage starts."""
        self._running[stage.name] = time.monotonic()
        self.view.started(stage, allocation)
        self._delivery.put(StageBegun(stage=stage.name, config=stage.config.shown()))
        self._save_tracking(self._delivery.runs)

    def event(self, name: str, event: Event) -> None:
        """Pass on what a running stage reported."""
        self.view.event(name, event)
        if isinstance(event, Log):
            self._write_log(name, f"{event.level} {event.message}")
        elif isinstance(event, Metrics):
            self._delivery.put(MetricsLogged.of(name, event))
        elif isinstance(event, LoggedImage):
            self._delivery.put(ImageLogged.of(name, event))

    def finished(self, result: StageResult) -> None:
        """Pass on how a stage ended."""
        self.results[result.name] = result
        self._running.pop(result.name, None)
        if result.seconds:
            now = time.monotonic()
            self._intervals.append((now - result.seconds, now))
        if result.trace:
            self._write_log(result.name, f"ERROR {result.trace}")
        self.view.finished(result)
        if result.seconds:
            self._save_tracking(self._delivery.runs)
        self._delivery.put(StageEnded.of(result.name, result.state, result.seconds, result.summary))

    def track(self, operation: Operation) -> None:
        """Record something of the whole run."""
        self._delivery.put(operation)

    def close(self, status: RunEnd, patience: float) -> tuple[MlflowRuns, int]:
        """Close the run in MLflow; return its runs there, and how many records could not be sent and are kept."""
        if self._delivery.wrong is None:
            self._delivery.put(RunEnded(status=status))
        left = self._delivery.close(patience)
        return self._delivery.runs, left

    def results_so_far(self, state: StageState) -> dict[str, StageResult]:
        """Return how the stages ended, and those that run, in this state."""
        now = time.monotonic()
        running = {name: StageResult(name, state, now - begun) for name, begun in self._running.items()}
        return self.results | running

    def busy_seconds(self) -> float:
        """Return for how long at least one stage was running."""
        total, reached = 0.0, 0.0
        for begin, end in sorted(self._intervals):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total

    def _write_log(self, name: str, text: str) -> None:
        with open(self._log_folder / f"{name}.log", "a", encoding="utf-8", opener=_private) as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {indented(printable(redact(text)))}\n")


def _private(path: str, flags: int) -> int:
    """Open a file that its owner alone reads: logs may quote what others are not to know."""
    return os.open(path, flags, 0o600)
