"""Everyone who is told what a run does: the terminal, the log files, and the tracker."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipeline.config import RunConfig
from pipeline.plan import PlannedStage
from pipeline.results import StageResult
from pipeline.view import RunView
from stages.contract import GrantedResources
from stages.events import Event, Log, Metrics, Picture

if TYPE_CHECKING:
    from pipeline.tracking import RunTracker


class RunObserver:
    """Hands every report on; the tracker opens in the background while Ray starts."""

    def __init__(
        self,
        console: Console,
        log_folder: Path,
        tracker: "Future[RunTracker]",
        save_tracking: Callable[[dict[str, Any]], None],
    ) -> None:
        self._view = RunView(console)
        self._log_folder = log_folder
        self._tracker = tracker
        self._save_tracking = save_tracking
        self._intervals: list[tuple[float, float]] = []
        self.results: dict[str, StageResult] = {}

    def __enter__(self) -> "RunObserver":
        """Begin to draw."""
        self._view.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        """Leave the terminal as it was."""
        self._view.__exit__(*args)

    def opened(self, config: RunConfig) -> None:
        """Keep the tracker's run ids before anything runs, so that a killed run goes on in them."""
        self._config = config

    def started(self, stage: PlannedStage, granted: GrantedResources) -> None:
        """Hand on that a stage starts."""
        self._view.started(stage, granted)
        tracker = self._tracker.result()
        tracker.stage_started(stage.name, stage.config.model_dump(mode="json"))
        self._save_tracking(tracker.record)

    def event(self, name: str, event: Event) -> None:
        """Hand on what a running stage reported."""
        self._view.event(name, event)
        if isinstance(event, Log):
            self._write_log(name, f"{event.level} {event.message}")
        elif isinstance(event, Metrics | Picture):
            self._tracker.result().stage_event(name, event)

    def finished(self, result: StageResult) -> None:
        """Hand on how a stage ended."""
        self.results[result.name] = result
        if result.seconds:
            now = time.monotonic()
            self._intervals.append((now - result.seconds, now))
        if result.trace:
            self._write_log(result.name, f"ERROR {result.trace}")
        self._view.finished(result)
        self._tracker.result().stage_finished(result.name, result.state, result.seconds, dict(result.summary))

    def close(self, status: str) -> None:
        """Close the tracker's run."""
        self._tracker.result().finish(status)

    def busy_seconds(self) -> float:
        """Return for how long at least one stage was running."""
        total, reached = 0.0, 0.0
        for begin, end in sorted(self._intervals):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total

    def _write_log(self, name: str, text: str) -> None:
        with (self._log_folder / f"{name}.log").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
