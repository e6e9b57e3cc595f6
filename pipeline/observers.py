"""What observes a run: the terminal, the log files, and the tracker."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipeline.errors import UsageError
from pipeline.plan import PlannedStage
from pipeline.record import MlflowRuns, StageState
from pipeline.results import StageResult
from pipeline.terminal import indented
from pipeline.view import RunView
from stages.contract.events import Event, Log, LoggedImage, Metrics
from stages.contract.secrets import redact
from stages.contract.stage import Allocation
from stages.contract.texts import one_line, printable

if TYPE_CHECKING:
    from pipeline.tracking import RunTracker


class RunObserver:
    """Passes every report on; the tracker opens in the background while Ray starts.

    A tracking server that disappears during a run costs its records and nothing else: one warning, and the run goes on.
    """

    def __init__(
        self,
        console: Console,
        log_folder: Path,
        tracker: "Future[RunTracker]",
        save_tracking: Callable[[MlflowRuns], None],
    ) -> None:
        self.view = RunView(console)
        self._log_folder = log_folder
        self._tracker = tracker
        self._save_tracking = save_tracking
        self._tracking_lost = False
        self._intervals: list[tuple[float, float]] = []
        self.results: dict[str, StageResult] = {}
        self._running: dict[str, float] = {}

    def opened(self, config: dict[str, Any], text: str) -> None:
        """Wait for the tracker and keep its run ids before anything runs, so that a killed run goes on in them."""
        tracker = self._tracker.result()
        self._save_tracking(tracker.runs)
        with self._tracked():
            tracker.log_config(config, text)

    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        """Pass on that a stage starts."""
        self._running[stage.name] = time.monotonic()
        self.view.started(stage, allocation)
        tracker = self._tracker.result()
        with self._tracked():
            tracker.stage_started(stage.name, stage.config.shown())
        self._save_tracking(tracker.runs)

    def event(self, name: str, event: Event) -> None:
        """Pass on what a running stage reported."""
        self.view.event(name, event)
        if isinstance(event, Log):
            self._write_log(name, f"{event.level} {event.message}")
        elif isinstance(event, Metrics | LoggedImage):
            with self._tracked():
                self._tracker.result().stage_event(name, event)

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
            self._save_tracking(self._tracker.result().runs)
        with self._tracked():
            self._tracker.result().stage_finished(result.name, result.state, result.seconds, result.summary)

    def track(self, log: "Callable[[RunTracker], None]") -> None:
        """Let the caller record something of the whole run."""
        with self._tracked():
            log(self._tracker.result())

    def close(self, status: str) -> None:
        """Close the tracker's run."""
        with self._tracked(), contextlib.suppress(UsageError):  # it never opened, which was reported already
            tracker = self._tracker.result()
            tracker.finish(status)
            self._save_tracking(tracker.runs)

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

    @contextlib.contextmanager
    def _tracked(self) -> Iterator[None]:
        """Survive a tracking server that fails: the models matter more than their record."""
        try:
            yield
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001  whatever the tracking library raises
            if not self._tracking_lost:
                what = f"{type(error).__name__}: {redact(one_line(error))}"
                self.view.report(f"tracking: warning: {what}; the run goes on without its record")
            self._tracking_lost = True

    def _write_log(self, name: str, text: str) -> None:
        with open(self._log_folder / f"{name}.log", "a", encoding="utf-8", opener=_private) as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {indented(printable(redact(text)))}\n")


def _private(path: str, flags: int) -> int:
    """Open a file that its owner alone reads: logs may quote what others are not to know."""
    return os.open(path, flags, 0o600)
