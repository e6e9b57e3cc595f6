"""What observes a run: the terminal, the log files, the tracker, and the sign of life."""

import time
from collections.abc import Callable
from typing import Any

from pipeline.logs.writer import RunLogs
from pipeline.outbox.delivery import Delivery
from pipeline.outbox.operations import (
    ConfigLogged,
    ImageLogged,
    MetricsLogged,
    Operation,
    RollBackLogged,
    RunEnd,
    RunEnded,
    StageBegun,
    StageEnded,
    StepsLogged,
)
from pipeline.plan import PlannedStage
from pipeline.progress import RunningStages
from pipeline.record import MlflowRuns, StageState
from pipeline.results import StageResult, without_job_folder
from pipeline.view import RunView
from stages.contract.events import Event, Log, LoggedImage, LoggedSteps, Metrics, Progress, RolledBack, Workers
from stages.contract.stage import Allocation


class RunObserver:
    """Passes every report on: to the terminal, to the log files, and to MLflow, for which nothing here waits."""

    def __init__(
        self,
        view: RunView,
        logs: RunLogs,
        delivery: Delivery,
        save_tracking: Callable[[MlflowRuns], None],
        stages: RunningStages,
    ) -> None:
        self.view = view
        self._logs = logs
        self._delivery = delivery
        self._save_tracking = save_tracking
        self._intervals: list[tuple[float, float]] = []
        self.results: dict[str, StageResult] = {}
        self._running: dict[str, float] = {}
        self._stages = stages

    def opened(self, config: dict[str, Any], text: str) -> None:
        """Record the config before anything runs; UsageError: the tracking server's address is wrong."""
        self._delivery.await_first()
        self._delivery.put(ConfigLogged(config=config, text=text))
        self._save_tracking(self._delivery.runs)

    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        """Pass on that a stage starts."""
        self._running[stage.name] = time.monotonic()
        self._stages.started(stage.name)
        self._logs.write(stage.name, Log(f"started: {stage.reason}"))
        self.view.started(stage, allocation)
        self._delivery.put(StageBegun(stage=stage.name, config=without_job_folder(stage.config.shown())))
        self._save_tracking(self._delivery.runs)

    def event(self, name: str, event: Event) -> None:
        """Pass on what a running stage reported."""
        if isinstance(event, Log):
            event = self._logs.write(name, event)
        self.view.event(name, event)
        if isinstance(event, Progress):
            self._stages.note(name, event)
        if isinstance(event, Workers):
            self._stages.locate(name, event.machines)
        if isinstance(event, Metrics):
            self._stages.measure(name, event)
            self._delivery.put(MetricsLogged.of(name, event))
        elif isinstance(event, LoggedImage):
            self._delivery.put(ImageLogged.of(name, event))
        elif isinstance(event, RolledBack):
            self._delivery.put(RollBackLogged.of(name, event))
        elif isinstance(event, LoggedSteps):
            self._delivery.put(StepsLogged.of(name, event))

    def finished(self, result: StageResult) -> None:
        """Pass on how a stage ended."""
        self.results[result.name] = result
        self._running.pop(result.name, None)
        self._stages.ended(result.name)
        if result.seconds:
            now = time.monotonic()
            self._intervals.append((now - result.seconds, now))
            self._logs.write(result.name, Log(f"{result.state} in {result.seconds:.1f} s"))
        if result.trace:
            self._logs.write(result.name, Log(result.trace, "ERROR"))
        self.view.finished(result)
        if result.seconds:
            self._save_tracking(self._delivery.runs)
        self._delivery.put(StageEnded.of(result.name, result.state, result.seconds, result.summary, result.rate))

    def track(self, operation: Operation) -> None:
        """Record something of the whole run."""
        self._delivery.put(operation)

    def close(self, status: RunEnd, patience: float) -> tuple[MlflowRuns, int]:
        """Close the run in MLflow; return its runs there, and how many records could not be sent and are kept."""
        if self._delivery.wrong is None:
            self._delivery.put(RunEnded(status=status))
        left = self._delivery.close(patience)
        self._logs.close()
        return self._delivery.runs, left

    def results_so_far(self, state: StageState) -> dict[str, StageResult]:
        """Return how the stages ended, and those that run, in this state."""
        now = time.monotonic()
        running = {name: StageResult(name, state, now - begun) for name, begun in self._running.items()}
        return self.results | running

    def busy_seconds(self) -> float:
        """Return for how long at least one stage was running, those that run now included."""
        total, reached, now = 0.0, 0.0, time.monotonic()
        for begin, end in sorted([*self._intervals, *((begun, now) for begun in self._running.values())]):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total
