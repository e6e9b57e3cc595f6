"""How a run closes its record: within seconds where it was ended from outside, whatever its store does."""

import io
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.loading import load_config
from pipeline.ends import HURRIED_SECONDS
from pipeline.experiment import Experiment
from pipeline.outbox.operations import ReportLogged
from pipeline.plan import make_plan
from pipeline.progress import RunningStages
from pipeline.record import RunRecord
from pipeline.results import new_record
from pipeline.run import _Session
from pipeline.store import Store
from stages.storage.patience import patience_seconds, waiting_for

NOBODY = "http://127.0.0.1:9"
SLACK = 30.0  # seconds of a busy machine; half of what the store makes its callers wait


class AwayStore(Store):
    """Takes no closed record until it is back."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.back = threading.Event()
        self.asked = threading.Event()

    def write_run(self, record: RunRecord) -> None:
        if record.status != "running":
            self.asked.set()
            # In short pauses: a signal that comes right before a wait begins is handled when the wait is over.
            until = time.monotonic() + 60
            while not self.back.wait(0.1) and time.monotonic() < until:
                pass
        super().write_run(record)


class Run:
    """A run in a store of which somebody decides when it is there."""

    def __init__(self, folder: Path) -> None:
        self.store, self._said = AwayStore(str(folder)), io.StringIO()
        config = load_config("configs/smoke.yaml", [f"store={folder}", f"tracking.uri={NOBODY}"])
        plan = make_plan(config, self.store)
        self.session = _Session(
            Experiment(config, "smoke.yaml", self.store, plan),
            new_record(plan, "smoke.yaml", config.shown()),
            Console(file=self._said, width=200),
            time.monotonic(),
            RunningStages(),
            earlier=None,
        )
        self.name = plan.run

    @property
    def said(self) -> str:
        return self._said.getvalue()

    @property
    def status(self) -> str:
        record = self.store.read_run(self.name)
        assert record is not None
        return record.status


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with waiting_for(10):
        found = Run(tmp_path)
        yield found
        found.store.back.set()
        found.session._delivery.close(0)


def interrupt_when_asked(store: AwayStore) -> None:
    """Send a signal once the store is waited for; to the main thread, as in a run, whose others hold signals back."""

    def interrupt() -> None:
        assert store.asked.wait(60)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()


def test_a_signal_ends_the_waiting_for_a_store_that_is_away(run: Run) -> None:
    interrupt_when_asked(run.store)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run.session._close("done", {})
    assert time.monotonic() - begun < HURRIED_SECONDS + SLACK
    assert "warning: the record of the run is left as it was, as the store does not take it" in run.said
    assert run.status == "running"


def test_an_interrupted_run_waits_once_and_no_second_signal_cuts_it_short(run: Run) -> None:
    interrupt_when_asked(run.store)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):  # when it has waited
        run.session._close("interrupted", {})
    seconds = time.monotonic() - begun
    assert HURRIED_SECONDS - 0.1 < seconds < HURRIED_SECONDS + SLACK
    assert patience_seconds() < HURRIED_SECONDS
    again = []
    for _ in range(3):  # of which a busy machine may hold up one
        begun = time.monotonic()
        run.session._close("interrupted", {})
        again.append(time.monotonic() - begun)
    assert min(again) < HURRIED_SECONDS - 0.5
    assert run.said.count("is left as it was") == 1
    run.store.back.set()
    run.session._close("interrupted", {})
    assert run.status == "interrupted"


def test_what_is_not_sent_is_kept_before_the_record_is_closed_as_done(run: Run) -> None:
    run.session._observer.track(ReportLogged(page="<p>"))
    closing = threading.Thread(target=run.session._close, args=("done", {}))
    closing.start()
    assert run.store.asked.wait(60)
    assert len(run.store.tracking_folder(run.name).glob("*.jsonl")) == 1
    run.store.back.set()
    closing.join(60)
    assert run.status == "done"
