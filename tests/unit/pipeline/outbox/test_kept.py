"""What is kept of a run is sent under the run's lease: a driver that is at it, on whatever machine, is left alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.leases import Leases, LeaseTimes
from pipeline.outbox.kept import Driven, send_kept
from pipeline.outbox.operations import RunEnded, to_line
from pipeline.outbox.spool import Spool
from pipeline.record import MlflowRuns
from pipeline.store import Store
from tests.factories import make_record

NOBODY = "http://127.0.0.1:9"
TIMES = LeaseTimes(timeout=1.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a run of which something is kept."""
    store = Store(str(tmp_path / "store"))
    store.open_for_writing()
    store.write_run(make_record("tiny-1", mlflow=MlflowRuns.at(NOBODY).model_dump()))
    spool = Spool(store.tracking_folder("tiny-1"))
    spool.put(to_line(RunEnded(status="done")))
    spool.close()
    return store


@pytest.fixture
def driver(store: Store, tmp_path: Path) -> Iterator[Leases]:
    """Another machine that drives the run."""
    leases = Leases(store.uri, tmp_path / "other", run="tiny-1", times=TIMES, report=lambda text: None)
    with leases.holding(["run-tiny-1"]) as held:
        yield held


def test_a_run_that_another_machine_drives_is_left_with_a_sentence(store: Store, driver: Leases) -> None:
    before = (Path(store.uri) / "runs" / "tiny-1" / "run.json").read_bytes()
    with pytest.raises(Driven, match=r"^run-tiny-1: is being made by .*: wait for its end, or end it; it sends itself"):
        send_kept("tiny-1", store, None, 0, lambda text: None)
    driver.check(fresh=True)
    assert (Path(store.uri) / "runs" / "tiny-1" / "run.json").read_bytes() == before
    assert len(store.tracking_folder("tiny-1").glob("*.jsonl")) == 1


def test_a_command_for_all_runs_goes_on_with_the_others(store: Store, driver: Leases) -> None:
    found = CliRunner().invoke(app, ["track", "--store", store.uri, "--patience", "0"])
    assert found.exit_code == 0, found.output
    assert "run-tiny-1: is being made by" in found.output
    assert "nothing is kept" not in found.output
    named = CliRunner().invoke(app, ["track", "tiny-1", "--store", store.uri, "--patience", "0"])
    assert isinstance(named.exception, Driven)


def test_the_record_is_as_the_last_driver_wrote_it_and_the_lease_free_afterwards(store: Store, tmp_path: Path) -> None:
    seen: list[str] = []

    def report(text: str) -> None:
        """Look, while it is sent, whether another driver could begin."""
        other = Leases(store.uri, tmp_path / "other", run="tiny-1", times=LeaseTimes(1, 0), report=lambda text: None)
        with pytest.raises(Exception, match="is alive and was waited for"), other.holding(["run-tiny-1"]):
            pass
        seen.append(text)

    store.write_run(make_record("tiny-1", seconds=7.0, mlflow=MlflowRuns.at(NOBODY).model_dump()))
    record, sent, left = send_kept("tiny-1", store, None, 0, report)
    assert (sent, left) == (0, 1)
    assert seen
    assert record.seconds == 7.0
    kept = store.read_run("tiny-1")
    assert kept is not None
    assert kept.seconds == 7.0
    with Leases(store.uri, tmp_path / "other", run="x", times=TIMES, report=print).holding(["run-tiny-1"]) as leases:
        assert not leases.has_waited


SEND = """
import sys
from pipeline.ends import heeding_signals
from pipeline.outbox.kept import send_kept
from pipeline.store import Store
with heeding_signals():
    send_kept("tiny-1", Store(sys.argv[1]), None, 600, lambda text: print("reported", flush=True))
"""


def test_who_is_ended_while_it_sends_does_not_wait_its_patience_out(store: Store) -> None:
    root = Path(__file__).resolve().parents[4]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", SEND, store.uri], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"reported"
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1  # of 600 minutes
    assert len(store.tracking_folder("tiny-1").glob("*.jsonl")) == 1
