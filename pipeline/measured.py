"""What a run's stages report, as measurements on Ray's Prometheus endpoint beside whatever else observes the run."""

import math
import time

from cluster.metrics import set_gauge
from pipeline.plan import PlannedStage
from pipeline.results import Observer, StageResult
from stages.contract.errors import FailureCause
from stages.contract.events import Event, Metrics, Progress
from stages.contract.stage import Allocation

_FAILED = "failed_"
_OTHER = "other"
_CAUSES = frozenset(cause.value for cause in FailureCause)
#: Of what training reports, by the names of the measurements.
_OF_TRAINING = {"loss": "corgi_loss", "samples_per_second": "corgi_samples_per_second",
                "data_wait_fraction": "corgi_data_wait_fraction"}  # fmt: skip


class MeasuredObserver:
    """Passes everything on to another observer, and measures it."""

    def __init__(self, observer: Observer, run: str) -> None:
        self._observer, self._run = observer, run
        self._before: dict[str, tuple[float, int]] = {}

    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        """Note that a stage starts."""
        self._observer.started(stage, allocation)
        self._set("corgi_stage_running", stage.name, 1)

    def event(self, name: str, event: Event) -> None:
        """Note what a running stage reported."""
        self._observer.event(name, event)
        if isinstance(event, Progress):
            self._progress(name, event)
        elif isinstance(event, Metrics):
            if event.step:
                self._set("corgi_step", name, event.step)
            for key, measured in _OF_TRAINING.items():
                if key in event.values:
                    self._set(measured, name, event.values[key])

    def _progress(self, name: str, event: Progress) -> None:
        self._set("corgi_units_done", name, event.done)
        self._set("corgi_units_planned", name, event.total)
        now, items = time.monotonic(), event.items or event.done
        made = items - (event.reused_items if event.items else event.reused)
        since, before = self._before.get(name, (now, made))
        self._set("corgi_items_done", name, items)
        if now > since:
            self._set("corgi_items_per_second", name, max(0, made - before) / (now - since))
        self._before[name] = now, made

    def finished(self, result: StageResult) -> None:
        """Note how a stage ended."""
        self._observer.finished(result)
        self._set("corgi_stage_running", result.name, 0)
        self._set("corgi_items_per_second", result.name, 0)
        for cause, lost in failures_by_cause(result).items():
            self._set("corgi_items_failed", result.name, lost, cause=cause)

    def _set(self, measured: str, stage: str, value: float, **labels: str) -> None:
        if math.isfinite(value):
            set_gauge(measured, value, run=self._run, stage=stage, **labels)


def failures_by_cause(result: StageResult) -> dict[str, int]:
    """Return what a stage lost, by the causes of the fixed list; statuses are one cause, and unknown ones another."""
    found: dict[str, int] = {}
    counts = {} if result.summary is None else result.summary.counts
    for key, lost in counts.items():
        if not key.startswith(_FAILED):
            continue
        cause = key.removeprefix(_FAILED)
        known = cause if cause in _CAUSES else FailureCause.HTTP.value if cause.startswith("http_") else _OTHER
        found[known] = found.get(known, 0) + lost
    return found
