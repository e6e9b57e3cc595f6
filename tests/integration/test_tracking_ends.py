"""How the sending of a run's records ends: nothing is left out, nothing left behind, and nobody waits for long."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.ends import HURRIED_SECONDS
from pipeline.outbox.delivery import LAST_SECONDS, Delivery, Target
from pipeline.outbox.operations import RunEnded
from pipeline.outbox.spool import Spool
from pipeline.record import MlflowRuns
from pipeline.store import Store
from pipeline.tracking_address import default_tracking_uri
from tests.mlflow_server import Gateway, Handler, serve_mlflow
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = """
import io, sys, time
from pathlib import Path
from PIL import Image
from pipeline.outbox.delivery import Delivery, Target
from pipeline.outbox.operations import ImageLogged, ReportLogged
from pipeline.outbox.spool import Spool
from pipeline.record import MlflowRuns
from pipeline.store import Store
from stages.contract.events import LoggedImage
uri, store, begun = sys.argv[1:]
target = Target(uri, "shapes", "tiny", lambda tracker: None)
delivery = Delivery(Spool(Store(store).tracking_folder("tiny-1")), target, MlflowRuns.at(uri), print).start()
image = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(image, "PNG")
delivery.put(ImageLogged.of("train_prior", LoggedImage("samples", image.getvalue(), 3)))
delivery.put(ReportLogged(page="<p>"))
while not Path(begun).exists():
    time.sleep(0.05)
print("left", delivery.close(0), flush=True)
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    port = free_port()
    with serve_mlflow(tmp_path_factory.mktemp("server"), port), Gateway(port) as found:
        yield found
        found.shutdown()


class SlowSpool(Spool):
    """Holds the reader of the empty queue up until it is let go, and every other reading a little."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Store(str(folder)).tracking_folder("tiny-1"))
        self.is_read, self.go_on = threading.Event(), threading.Event()

    def head(self, most: int) -> list[bytes]:
        found = super().head(most)
        if found:
            time.sleep(0.5)
        elif not self.go_on.is_set():
            self.is_read.set()
            assert self.go_on.wait(60)
        return found


def test_what_is_put_while_the_empty_queue_is_read_is_waited_for(gateway: Gateway, tmp_path: Path) -> None:
    spool = SlowSpool(tmp_path)
    target = Target(gateway.url, "shapes", "tiny", lambda tracker: None)
    delivery = Delivery(spool, target, MlflowRuns.at(gateway.url), lambda text: None).start()
    assert spool.is_read.wait(60)
    delivery.put(RunEnded(status="done"))
    threading.Timer(0.3, spool.go_on.set).start()  # when the end of the run waits already
    assert delivery.close(60) == 0
    assert MlflowClient(gateway.url).get_run(delivery.runs.run_id).info.status == "FINISHED"


def test_a_call_that_is_cut_off_by_the_end_of_the_process_leaves_no_files(gateway: Gateway, tmp_path: Path) -> None:
    temporary, begun = tmp_path / "temporary", tmp_path / "begun"
    temporary.mkdir()
    over = threading.Event()

    def hold(handler: Handler) -> bool:
        if handler.command == "PUT":
            begun.touch()
            over.wait(250)
        return False

    gateway.fault = hold
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", BLOCKED, gateway.url, str(tmp_path / "store"), str(begun)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=250)
    finally:
        over.set()
        gateway.fault = lambda handler: False
    assert done.returncode == 0, done.stderr
    assert "left 2" in done.stdout
    assert list(temporary.iterdir()) == []


class StuckSpool(Spool):
    """Lets nobody read until the test is over."""

    over = threading.Event()

    def head(self, most: int) -> list[bytes]:
        assert self.over.wait(250)
        return []


def test_a_hurried_end_waits_seconds_for_a_database_too(tmp_path: Path) -> None:
    """Which is waited for at other ends, as it is opened in this process."""
    uri, folder = default_tracking_uri(tmp_path), Store(str(tmp_path)).tracking_folder("tiny-1")
    target = Target(uri, "shapes", "tiny", lambda tracker: None)
    delivery = Delivery(spool := StuckSpool(folder), target, MlflowRuns.at(uri), lambda text: None).start()
    delivery.put(RunEnded(status="interrupted"))
    delivery.hurry()
    begun = time.monotonic()
    assert delivery.close(200) == 1
    spool.over.set()
    assert time.monotonic() - begun < HURRIED_SECONDS + LAST_SECONDS + 80
    assert len(folder.glob("*.jsonl")) == 1
