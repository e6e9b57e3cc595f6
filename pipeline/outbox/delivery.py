"""Send what a run records to its tracking server beside the run's work, which never waits for it.

Recording puts a line into a :class:`Spool` and returns. One thread sends the lines in order, with short limits; where
no server answers it tries again at growing intervals, and another thread keeps in the store what waits. The end of a
run waits ``patience`` seconds at most for what is left. That stays in the store: the next start of the run sends it, or
``corgi track RUN``.

A call that the server refuses although it answers is tried a few times and then set aside, so that it keeps back no
other; it is tried again at the end.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.owned_folders import scratch_folder
from pipeline.ends import HURRIED_SECONDS, in_time
from pipeline.errors import UsageError
from pipeline.outbox.operations import (
    ConfigLogged,
    ImageLogged,
    MetricsLogged,
    ModelFinished,
    Operation,
    Provenance,
    ReportLogged,
    RollBackLogged,
    RunEnded,
    StageBegun,
    StageEnded,
    StepsLogged,
    from_line,
    to_line,
)
from pipeline.outbox.spool import Spool
from pipeline.record import MlflowRuns
from pipeline.tracking_address import TrackingAway, explain_refusal, is_server, reason_of, require_response
from stages.contract.secrets import redact, redact_addresses
from stages.contract.texts import one_line

if TYPE_CHECKING:
    from pipeline.tracking import RunTracker

KEEP_SECONDS = 2.0
"""What has waited for so long is written to the store."""
IDLE_SECONDS = 1.0
POLL_SECONDS = 0.05
LONGEST_PAUSE = 15.0
START_SECONDS = 5.0
LAST_SECONDS = 1.0
"""For the line in hand when nothing is waited for any more."""
DATABASE_SECONDS = 90.0
"""A database is opened in this process, where the first start makes its tables."""
BATCH = 200
TRIES = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """Where a run is recorded, and how its model is registered there."""

    uri: str
    experiment: str
    run: str
    register: Callable[["RunTracker"], None]

    @property
    def shown(self) -> str:
        """The address as it may be shown."""
        return redact_addresses(self.uri)


class Delivery:
    """The queue of one run, and the threads that empty it."""

    def __init__(self, spool: Spool, target: Target, runs: MlflowRuns, report: Callable[[str], None]) -> None:
        self._spool = spool
        self._target = target
        self._report = report
        self._tracker: RunTracker | None = None
        self._runs = runs
        self._decided = threading.Event()  # the first attempt is over
        self._imported = threading.Event()  # MLflow, which takes seconds of this machine's own
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._is_hurried = False
        self._registering = False
        self._scratch: Path | None = None
        self._folders = contextlib.ExitStack()
        self._away = ""
        self._current: Operation | None = None
        self._lines = 0
        self._careful = 0  # so many lines are sent one by one
        self._tries = 0
        self._failures = 0
        self._pause = IDLE_SECONDS
        self._last_reply = time.monotonic()
        self._opening: dict[str, Operation] = {}
        self._roll_backs: tuple[RollBackLogged, ...] = ()
        self.wrong: UsageError | None = None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._keep)]

    # ---- the driver's side

    def start(self) -> "Delivery":
        """Begin to send.

        Temporary files lie in a folder of the thread that calls this and :meth:`close`: the one that sends may be cut
        off in the middle of a call when the process ends, and would leave its own.
        """
        self._scratch = self._folders.enter_context(scratch_folder("tracking"))
        for thread in self._threads:
            thread.start()
        return self

    @property
    def runs(self) -> MlflowRuns:
        """MLflow's ids, as far as the server gave them."""
        tracker = self._tracker
        return (self._runs if tracker is None else tracker.runs).model_copy(deep=True)

    def put(self, operation: Operation) -> None:
        """Record something; it is sent within about a second, or kept.

        What a roll back of a training discards and is not sent yet is left out.
        """
        if isinstance(operation, RollBackLogged):
            self._roll_backs += (operation,)
        self._spool.put(to_line(operation))

    def await_first(self) -> None:
        """Wait until it is known whether the address is right; UsageError: it is wrong, so that nothing should run."""
        self._imported.wait(DATABASE_SECONDS)
        if not self._decided.wait(START_SECONDS if is_server(self._target.uri) else DATABASE_SECONDS):
            self._note_away(f"MLflow at {self._target.shown} has not answered yet")
            self._decided.set()
        if self.wrong is not None:
            raise self.wrong

    def keep(self) -> None:
        """Have in the store what is not sent; what is recorded from then on is sent within about a second, or kept."""
        self._spool.keep(0.0)

    def hurry(self) -> None:
        """Let the end wait for seconds at most, for the server and for the store: somebody waits for it."""
        self._is_hurried = True

    def close(self, patience: float) -> int:
        """Wait a little for what is left, keep the rest in the store, and return how much that is."""
        try:
            self._spool.requeue()
            self._wait(patience)
        except KeyboardInterrupt:
            self.hurry()
            raise
        finally:
            self._stopping.set()
            self._wake.set()
            if self._threads[0].is_alive():
                self._threads[0].join(LAST_SECONDS)
            self._folders.close()
            left = self._keep_the_rest()
        if self._spool.lost:
            self._report(f"tracking: warning: {self._spool.lost} records are lost: neither server nor store took them")
        return left

    def _keep_the_rest(self) -> int:
        if not self._is_hurried:
            return self._spool.close()
        try:
            return in_time(HURRIED_SECONDS, self._spool.close)
        except Exception as error:  # noqa: BLE001  whatever a file system raises
            found = one_line(redact(str(error)) or type(error).__name__, 200)
            self._report(f"tracking: warning: the records of the last seconds are not kept in the store: {found}")
            return 0

    def _wait(self, patience: float) -> None:
        """Wait for the queue, for a bounded time; for the model's files as long as a server is there to take them.

        A server that was away long before the end gets one more try, and not all that time again.
        """
        begun, failures = time.monotonic(), self._failures
        if self._is_hurried:
            patience = min(patience, HURRIED_SECONDS)
        elif not is_server(self._target.uri):
            patience = max(patience, DATABASE_SECONDS)
        self._wake.set()
        while not self._spool.is_empty and self._threads[0].is_alive() and self.wrong is None:
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            if self._registering and not self._is_hurried and self._responds():
                begun = now
            was_away = self._away and begun - self._last_reply > patience
            if now - begun > patience or (was_away and self._failures > failures):
                return

    def _responds(self) -> bool:
        try:
            require_response(self._target.uri)
        except TrackingAway:
            return False
        return True

    # ---- the thread that sends

    def _send(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._send_some():
                    continue
            except Exception as error:  # noqa: BLE001  whatever the tracking library, or the store, raises
                if self._stopping.is_set():
                    return
                self._failed(error)
            self._wake.wait(self._pause)
            self._wake.clear()

    def _send_some(self) -> bool:
        """Send the oldest lines; False: there are none."""
        self._current = None
        tracker = self._tracker or self._connect()
        lines = self._spool.head(1 if self._careful else BATCH)
        if not lines:
            return False
        self._lines, applied = len(lines), 0
        for line in lines:
            if self._stopping.is_set():
                break
            self._apply(tracker, line)
            applied += 1
        tracker.flush()
        self._spool.sent(applied)
        self._careful, self._tries = max(0, self._careful - 1), 0
        self._reached()
        return True

    def _connect(self) -> "RunTracker":
        require_response(self._target.uri)
        from pipeline.tracking import RunTracker

        self._imported.set()
        target, known = self._target, self._runs.run_id
        tracker = RunTracker.open(target.uri, target.experiment, target.run, self._runs, scratch=self._scratch)
        self._runs = tracker.runs
        if known and tracker.runs.run_id != known:
            self._report(f"tracking: warning: {target.shown} no longer has the run's record; a new one is begun there")
            for operation in self._opening.values():
                self._apply_to(tracker, operation)
        self._tracker = tracker
        self._reached()
        return tracker

    def _apply(self, tracker: "RunTracker", line: bytes) -> None:
        try:
            operation = self._current = from_line(line)
        except ValueError as error:
            found = one_line(redact(str(error)), 200)
            self._report(f"tracking: warning: {self._spool.where}: a damaged record is left out ({found})")
            return
        if isinstance(operation, ConfigLogged | StageBegun):
            self._opening[getattr(operation, "stage", "")] = operation
        self._apply_to(tracker, operation)

    def _apply_to(self, tracker: "RunTracker", operation: Operation) -> None:
        with tracker.as_of(operation.time):
            match operation:
                case ConfigLogged():
                    tracker.log_config(operation.config, operation.text)
                case Provenance():
                    tracker.log_provenance(**operation.model_dump(exclude={"kind", "time"}))
                case StageBegun():
                    tracker.stage_started(operation.stage, operation.config)
                case MetricsLogged() | ImageLogged() if self._is_discarded(operation):
                    pass
                case MetricsLogged() | StepsLogged() | ImageLogged() | RollBackLogged():
                    tracker.stage_event(operation.stage, operation.event())
                case StageEnded() as ended:
                    summary = ended.stage_summary()
                    tracker.stage_finished(ended.stage, ended.state, ended.seconds, summary, ended.per_second)
                case ModelFinished():
                    self._register(tracker)
                case ReportLogged():
                    tracker.log_report(operation.page)
                case RunEnded():
                    tracker.finish(operation.status)

    def _is_discarded(self, operation: MetricsLogged | ImageLogged) -> bool:
        found = (one.event() for one in self._roll_backs if one.stage == operation.stage)
        return any(one.discards(operation.step, operation.time) for one in found)

    def _register(self, tracker: "RunTracker") -> None:
        self._registering = True
        try:
            self._target.register(tracker)
        finally:
            self._registering = False

    def _reached(self) -> None:
        self._last_reply = time.monotonic()
        self._pause = IDLE_SECONDS
        self._decided.set()
        if self._away:
            self._away = ""
            self._report(f"tracking: {self._target.shown} answers; what was kept is sent now")

    # ---- calls that fail

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._imported.set()
        if self._tracker is None:
            if isinstance(error, UsageError) and not self._decided.is_set():
                self.wrong = error
            self._note_away(one_line(redact(str(error)), 400))
            self._decided.set()
        else:
            self._tracker.forget_waiting()
            self._decide(error)

    def _decide(self, error: Exception) -> None:
        """Decide what becomes of a failed call: no server takes it now, or it refuses this one alone."""
        address, reason = self._target.uri, reason_of(error)
        if reason == "denied":
            self._note_away(explain_refusal(error, address))
        elif reason == "away" and not self._responds():
            self._note_away(str(TrackingAway.by(error, address)))
        elif not self._careful and self._lines > 1:
            self._careful = self._lines  # one by one: which is it?
        elif self._current is None or (reason == "away" and not self._current.writes_files):
            self._note_away(str(TrackingAway.by(error, address)))  # its database takes nothing: a full disk
        else:
            self._try_again(error, is_refused=reason == "refused")

    def _try_again(self, error: Exception, *, is_refused: bool) -> None:
        self._tries += 1
        if self._tries >= TRIES:
            self._spool.set_aside()
            self._tries = 0
            found = explain_refusal(error, self._target.uri)
            self._report(f"tracking: warning: one record cannot be sent, and is kept in the store: {found}")
        elif is_refused:
            self._tracker = None  # the server may have lost the run: connect anew

    def _note_away(self, found: str) -> None:
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        if not self._away and self.wrong is None:
            self._report(f"tracking: warning: {found}; nothing waits for it, and what it misses is kept in the store")
        self._away = found

    # ---- the thread that keeps

    def _keep(self) -> None:
        is_failing = False
        while not self._stopping.wait(IDLE_SECONDS):
            try:
                self._spool.keep(KEEP_SECONDS)
                is_failing = False
            except Exception as error:  # noqa: BLE001  whatever a file system raises
                if not is_failing:
                    _log.warning("tracking: records cannot be kept in the store: %s", redact(one_line(error, 200)))
                is_failing = True
