"""Run one experiment: plan it, start Ray and the tracker side by side, run the graph, keep the record."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from cluster.signals import signals_held_back
from pipeline.ends import HURRIED_SECONDS, in_time, wind_down
from pipeline.errors import UsageError
from pipeline.experiment import Experiment
from pipeline.progress import RunningStages
from pipeline.record import MlflowRuns, RunRecord, StageState, Status
from stages.contract.secrets import NOTIFY_VARIABLE, redact
from stages.contract.texts import one_line
from stages.storage.patience import hurry

if TYPE_CHECKING:
    from pipeline.executor import GraphRun
    from pipeline.outbox.operations import RunEnd
    from pipeline.results import StageResult

_ONCE_MORE_SECONDS = 0.5  # for a store that was waited for in vain


def _report(text: str) -> None:
    from pipeline.terminal import echo

    echo(text, err=True)


def check_experiment(experiment: Experiment, to_come: Collection[str] = ()) -> None:
    """Check everything that can be wrong before anything is started.

    ``to_come`` are fingerprints of artifacts that will be in the store before it runs.
    """
    from cluster.session import check_cluster, check_reachable, existing_address, this_machine
    from pipeline.allocation import allocate

    check_sections(experiment)
    experiment.check_reused(to_come)
    cluster = experiment.config.cluster
    address = existing_address(cluster.address)
    machine = None if address else this_machine(cluster.num_cpus)
    if address and not experiment.plan.is_done:
        check_reachable(address)
        check_cluster(address, cluster.allow_unauthenticated)
    if machine is not None:
        for name, section in experiment.config.stages().items():
            if experiment.plan.stages[name].state != "done":  # what another machine has made may ask for more
                allocate(section, machine)
    experiment.store.open_for_writing()


def check_sections(experiment: Experiment) -> None:
    """Let every stage that is to run check what its section names outside the store.

    Raises:
        UsageError: something of it is missing or wrong.
    """
    from stages.contract.errors import StageError
    from stages.contract.stage import optional_module

    for name in experiment.config.stages():
        stage = experiment.plan.stages[name]
        if stage.state != "done" and (own := optional_module(f"stages.{name}", "check")) is not None:
            try:
                own.check(stage.config)
            except StageError as error:
                raise UsageError(f"{name}: {error}") from None


def run_experiment(experiment: Experiment, console: Console) -> RunRecord:
    """Run what is not done yet and return the run's record; a stage's failure is in the record, not raised.

    Raises:
        UsageError: nothing was started, for the reason given.
        KeyboardInterrupt: after everything was stopped and the record was closed as interrupted.
    """
    from pipeline.heartbeat import beating
    from pipeline.outbox.kept import sole_sender
    from pipeline.results import earlier_record, new_record

    check_experiment(experiment)
    begun = time.monotonic()
    store = experiment.store
    with contextlib.ExitStack() as held:
        experiment = held.enter_context(experiment.leased(_report))
        plan = experiment.plan
        running = held.enter_context(beating(store, plan.run))
        held.enter_context(sole_sender(store, plan.run))
        earlier = earlier_record(store, plan.run)
        record = new_record(plan, experiment.path, experiment.config.shown())
        record.mlflow = earlier.mlflow if earlier is not None else None
        return _Session(experiment, record, console, begun, running, earlier=earlier).run()


def send_left_over(experiment: Experiment, run: str, report: Callable[[str], None]) -> None:
    """Send what an earlier start of a run that is done could not."""
    from pipeline.outbox.kept import Driven, describe_kept, has_kept, send_kept

    store, tracking = experiment.store, experiment.config.tracking
    if not has_kept(store, run):
        return
    try:
        record, _, left = send_kept(run, store, tracking.uri, tracking.patience, report)
    except Driven as error:
        report(f"tracking: {error}")
        return
    report(describe_kept(left, record, store) if left else f"tracking: what was kept of run {run} is sent")


class _Session:
    """A run in progress: who observes it, and how its record is closed."""

    def __init__(
        self,
        experiment: Experiment,
        record: RunRecord,
        console: Console,
        begun: float,
        running: RunningStages,
        *,
        earlier: RunRecord | None,
    ) -> None:
        from pipeline.logs.writer import RunLogs
        from pipeline.observers import RunObserver
        from pipeline.outbox.kept import start_delivery
        from pipeline.outbox.logged import steps_to_record
        from pipeline.tracking_address import default_tracking_uri
        from pipeline.view import RunView

        store, config, view = experiment.store, experiment.config, RunView(console)
        self._experiment = experiment
        self._record = record
        self._begun = begun
        self._store_seconds: float | None = None  # to wait for the store; none: as storage.patience says
        uri = config.tracking.uri or default_tracking_uri(store.local_root)
        missed = steps_to_record(experiment.plan, store, earlier)
        with signals_held_back():  # from its threads, so that they reach this one
            # It connects while Ray starts.
            self._delivery = start_delivery(record, store, uri, config, view.report, missed=missed)
        self._observer = RunObserver(view, RunLogs(store, record.run), self._delivery, self._save, running)

    def run(self) -> RunRecord:
        """Run the graph; whatever happens, the record says how it ended."""
        results: Mapping[str, StageResult] = {}
        status: Status = "interrupted"
        try:
            with self._observer.view:
                results = self._run_graph()
            status = "failed" if any(r.state == "failed" for r in results.values()) else "done"
            self._track_whole(results, status)
        except Exception:
            status = "failed"
            raise
        finally:
            try:
                self._close(status, results or self._observer.results_so_far("interrupted"))
                if sys.exception() is None:
                    self._log_report()
            except BaseException:
                self._hurry()  # a signal, or a store that is away: the rest is not worth minutes
                raise
            finally:
                self._close_tracking()
                self._notify(sys.exception())
        return self._record

    def _run_graph(self) -> "Mapping[str, StageResult]":
        plan, cluster = self._experiment.plan, self._experiment.config.cluster
        if plan.is_done:
            return self._reuse_everything()
        from cluster.session import existing_address, session

        address = existing_address(cluster.address)
        with session(address, cluster.num_cpus, cluster.allow_unauthenticated) as machines:
            from cluster.head import check_head, last_words
            from pipeline.executor import GraphRun
            from pipeline.measured import MeasuredObserver

            self._open_tracking()
            storage = self._experiment.config.storage.worker_environment()
            # The endpoint of a Ray that goes with the run is read by nobody.
            observer = self._observer if address is None else MeasuredObserver(self._observer, plan.run)
            graph = GraphRun(plan, self._experiment.store, machines, observer, storage)
            try:
                with last_words(self._end_without_head):
                    return graph.run()
            except KeyboardInterrupt:
                check_head()  # nothing can be wound down without it
                self._wind_down(graph)
                raise
            finally:
                graph.cancel()

    def _end_without_head(self, error: Exception) -> None:
        """Close what is open; the main thread waits for Ray, and the process ends after this."""
        self._observer.view.report(f"corgi: {redact(str(error))}")
        self._hurry()  # Ray ends this process soon
        self._close("failed", self._observer.results_so_far("interrupted"))
        self._close_tracking()

    def _wind_down(self, graph: "GraphRun") -> None:
        # The record first: this process may be killed before the end.
        self._close("interrupted", self._observer.results_so_far("interrupted"))
        wind_down(graph, self._experiment.config.cluster.grace_seconds, self._observer.view.report)

    def _reuse_everything(self) -> "Mapping[str, StageResult]":
        from pipeline.results import reused_result

        self._open_tracking()
        plan, store = self._experiment.plan, self._experiment.store
        results = {name: reused_result(stage, store) for name, stage in plan.stages.items()}
        for result in results.values():
            self._observer.finished(result)
        return results

    def _open_tracking(self) -> None:
        resolved = self._record.config
        self._observer.opened(resolved, yaml.safe_dump(resolved, sort_keys=False))

    def _track_whole(self, results: "Mapping[str, StageResult]", status: str) -> None:
        """Record what belongs to the run as a whole: what it learned from, and the model that came of it."""
        from pipeline.outbox.operations import ModelFinished
        from pipeline.summary import provenance

        if (found := provenance(results, self._experiment.plan)) is not None:
            self._observer.track(found)
        config = self._experiment.config
        if status == "done" and config.tracking.register_model and config.generate is not None:
            self._observer.track(ModelFinished())

    def _log_report(self) -> None:
        """Log the closed run's report; where it cannot be made, the run ends all the same."""
        from pipeline.html_report.at_end import report_at_end
        from pipeline.outbox.operations import ReportLogged

        page = report_at_end(self._record, self._experiment.store, self._observer.view.report)
        if page is not None:
            self._observer.track(ReportLogged(page=page))

    def _save(self, mlflow: MlflowRuns) -> None:
        """Write how far the run is: a run that is killed keeps the stages in hand."""
        from pipeline.results import update_record

        self._record.mlflow = mlflow
        plan, store = self._experiment.plan, self._experiment.store
        state: StageState = "running" if self._record.status == "running" else "interrupted"
        self._record = update_record(self._record, self._observer.results_so_far(state), plan, store)
        self._write()

    def _hurry(self) -> None:
        """Wait for nothing longer than seconds from now on: whoever ended the run waits, or kills it soon."""
        if self._store_seconds is not None:
            return
        self._store_seconds = HURRIED_SECONDS
        hurry(HURRIED_SECONDS)
        self._delivery.hurry()

    def _write(self) -> None:
        """Write the record; at a hurried end, a store that does not take it in time is a warning."""
        write = partial(self._experiment.store.write_run, self._record)
        if self._store_seconds is None:
            write()
            return
        try:
            in_time(self._store_seconds, write)
        except Exception as error:  # noqa: BLE001  whatever a file system raises
            if self._store_seconds != _ONCE_MORE_SECONDS:
                found = one_line(redact(str(error)) or type(error).__name__, 300)
                self._observer.view.report(
                    f"warning: the record of the run is left as it was, as the store does not take it ({found}); what "
                    "was finished is kept"
                )
            self._store_seconds = _ONCE_MORE_SECONDS
            hurry(_ONCE_MORE_SECONDS)

    def _close(self, status: Status, results: "Mapping[str, StageResult]") -> None:
        """Close the record; a signal ends the waiting for a store that is away, and none leaves the record open."""
        if status != "interrupted":
            try:
                self._delivery.keep()  # nothing looks for what is missing of a run whose record is closed
                self._write_closed(status, results)
            except KeyboardInterrupt:
                with signals_held_back():
                    self._hurry()
                    self._write_closed(status, results)
                raise
            return
        with signals_held_back():
            self._hurry()
            self._write_closed(status, results)

    def _write_closed(self, status: Status, results: "Mapping[str, StageResult]") -> None:
        from pipeline.results import close_record

        plan, store = self._experiment.plan, self._experiment.store
        seconds = time.monotonic() - self._begun
        self._record = close_record(self._record, results, plan, store, status=status)
        self._record.seconds = round(seconds, 2)
        self._record.overhead_seconds = round(seconds - self._observer.busy_seconds(), 2)
        self._write()

    def _close_tracking(self) -> None:
        """Wait a little for what MLflow is still to be sent; what it does not take stays in the store."""
        from pipeline.outbox.kept import describe_kept

        record = self._record
        ended: RunEnd = "interrupted" if record.status == "running" else record.status
        record.mlflow, left = self._observer.close(ended, self._experiment.config.tracking.patience)
        if left:
            self._observer.view.report(describe_kept(left, record, self._experiment.store))
        self._write()

    def _notify(self, error: BaseException | None) -> None:
        """Post how the run ended to where the config asks for it."""
        from pipeline.notification import end_document, notify

        url = self._experiment.config.notify.url or os.environ.get(NOTIFY_VARIABLE)
        if url:
            notify(url, end_document(self._record, self._experiment.store.uri, error), self._observer.view.report)
