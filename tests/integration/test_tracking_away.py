"""A tracking server that is away, stalls, refuses or forgets: nothing waits for it, nothing is lost, nothing doubled.

The server is MLflow's own, on SQLite, behind a gateway of this process that a test lets fail in the ways of networks.
"""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from pipeline.errors import UsageError
from pipeline.outbox.delivery import Delivery, Target
from pipeline.outbox.operations import (
    ConfigLogged,
    ImageLogged,
    MetricsLogged,
    Operation,
    Provenance,
    RunEnded,
    StageBegun,
    StageEnded,
)
from pipeline.outbox.spool import Spool
from pipeline.record import MlflowRuns
from pipeline.store import Store
from stages.contract.events import LoggedImage, Metrics
from stages.contract.stage import StageSummary
from tests.live import content_of, files_below
from tests.mlflow_server import Gateway, Handler, serve_mlflow
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
STEPS = range(10, 70, 10)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    with serve_mlflow(tmp_path_factory.mktemp("server"), port):
        yield port


@pytest.fixture
def gateway(mlflow: int) -> Iterator[Gateway]:
    with Gateway(mlflow) as found:
        yield found
        found.shutdown()


class Recorded:
    """A run that records what a small training does."""

    def __init__(self, folder: Path, uri: str, runs: MlflowRuns | None = None) -> None:
        self.words: list[str] = []
        self.spool = Spool(Store(str(folder)).tracking_folder("tiny-1"))
        self.known = runs or MlflowRuns.at(uri)
        target = Target(uri, "shapes", f"tiny-{folder.name}", lambda tracker: None)
        self.delivery = Delivery(self.spool, target, self.known, self.words.append).start()

    def put(self, *operations: Operation) -> None:
        begun = time.monotonic()
        for operation in operations:
            self.delivery.put(operation)
        assert time.monotonic() - begun < 20, "recording waited for the server"

    def begin(self) -> None:
        self.put(
            ConfigLogged(config={"seed": 3, "train_prior": {"kind": "shifted"}}, text="seed: 3\n"),
            StageBegun(stage="train_prior", config={"kind": "shifted"}),
        )

    def train(self, steps: range = STEPS) -> None:
        for step in steps:
            self.put(MetricsLogged.of("train_prior", Metrics({"loss": 1 / step}, step)))
        self.put(ImageLogged.of("train_prior", LoggedImage("samples", png(), steps[-1])))

    def end(self) -> None:
        self.put(
            StageEnded.of("train_prior", "done", 2.0, StageSummary(100, counts={"bad": 2}, metrics={"cosine": 0.9})),
            Provenance(images=20, captioned=2, failures={"http_404": 1}, source="artifacts/x", digest="abc"),
            RunEnded(status="done"),
        )

    def close(self, patience: float = 60.0) -> tuple[int, float]:
        begun = time.monotonic()
        return self.delivery.close(patience), time.monotonic() - begun


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def kept_files(folder: Path) -> list[Path]:
    files = (file for file in files_below(folder / "runs" / "tiny-1") if file.suffix == ".jsonl")
    return sorted(file for file in files if not file.name.startswith("."))  # which are still written


def await_kept(folder: Path, words: str) -> None:
    """Wait until a word of the newest record is in the store."""
    deadline = time.monotonic() + 100
    while not any(words.encode() in content_of(file) for file in kept_files(folder)):
        assert time.monotonic() < deadline, "nothing is kept"
        time.sleep(0.05)


def assert_whole(port: int, runs: MlflowRuns, steps: range = STEPS) -> None:
    """Assert that the server has one parent and one child, with everything once."""
    client = MlflowClient(f"http://127.0.0.1:{port}")
    found = client.search_runs([runs.experiment_id], f"tags.corgi.id LIKE '{runs.identity}%'")
    by_name: dict[str, Run] = {run.data.tags.get("corgi.stage", ""): run for run in found}
    assert len(found) == len(by_name) == 2
    parent, child = by_name[""], by_name["train_prior"]
    assert (parent.info.run_id, child.info.run_id) == (runs.run_id, runs.stages["train_prior"])
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params == {"seed": "3", "train_prior.kind": "shifted"}
    assert child.data.params == {"kind": "shifted"}
    history = client.get_metric_history(child.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(step, 1 / step) for step in steps]
    assert len(client.get_metric_history(child.info.run_id, "cosine")) == 1
    assert parent.data.metrics["data/failed/http_404"] == 1
    assert len(parent.inputs.dataset_inputs) == 1
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["config.yaml"]
    images = [file.path for file in client.list_artifacts(child.info.run_id, "images")]
    assert len(images) == len(set(images)) == 2  # the image, and a small one


def test_a_server_that_is_there_leaves_nothing_in_the_store(gateway: Gateway, tmp_path: Path) -> None:
    run = Recorded(tmp_path, gateway.url.replace("//", "//me:hidden@"), MlflowRuns.at(gateway.url))
    run.delivery.await_first()
    run.begin()
    run.train()
    run.end()
    assert run.close()[0] == 0
    assert kept_files(tmp_path) == []
    assert_whole(gateway.target, run.delivery.runs)


def test_a_server_that_comes_only_later_gets_everything_at_its_time(mlflow: int, tmp_path: Path) -> None:
    port = free_port()
    run = Recorded(tmp_path, f"http://127.0.0.1:{port}")
    begun = time.monotonic()
    run.delivery.await_first()
    assert time.monotonic() - begun < 50
    run.begin()
    run.train()
    await_kept(tmp_path, "image")
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in kept_files(tmp_path))
    recorded = time.time()
    with Gateway(mlflow, port):
        run.end()
        assert run.close()[0] == 0
    assert_whole(mlflow, run.delivery.runs)
    assert kept_files(tmp_path) == []
    first, second = run.words
    assert "no MLflow server answers" in first
    assert "kept in the store" in first
    assert "answers; what was kept is sent" in second
    client = MlflowClient(f"http://127.0.0.1:{mlflow}")
    history = client.get_metric_history(run.delivery.runs.stages["train_prior"], "loss")
    assert all(one.timestamp / 1000 <= recorded for one in history)


def test_what_a_run_could_not_send_the_next_one_sends(mlflow: int, tmp_path: Path) -> None:
    port = free_port()
    first = Recorded(tmp_path, f"http://127.0.0.1:{port}")
    first.delivery.await_first()
    first.begin()
    first.train(range(10, 40, 10))
    left, seconds = first.close(patience=2.0)
    assert (left, seconds < 20) == (6, True)
    with Gateway(mlflow, port):
        second = Recorded(tmp_path, f"http://127.0.0.1:{port}", first.delivery.runs)
        second.begin()  # from the checkpoint at step 20
        for step in (20, 30, 40, 50, 60):
            second.put(MetricsLogged.of("train_prior", Metrics({"loss": 1 / step}, step)))
        second.end()
        assert second.close()[0] == 0
    assert_whole(mlflow, second.delivery.runs)


def losing_replies(kinds: list[str]) -> Callable[[Handler], bool]:
    """Carry out the first call of each kind that writes, and break the connection in place of its reply."""

    def fault(handler: Handler) -> bool:
        kind = handler.path.partition("?")[0].rpartition("/")[2]
        if handler.command != "GET" and kind not in kinds and kind != "search":
            kinds.append(kind)
            handler.has_reply = False
        return False

    return fault


def test_a_call_that_is_carried_out_although_no_reply_comes_counts_once(gateway: Gateway, tmp_path: Path) -> None:
    lost: list[str] = []
    gateway.fault = losing_replies(lost)
    run = Recorded(tmp_path, gateway.url)
    run.begin()
    run.train()
    run.end()
    left, _ = run.close(patience=60)
    assert left == 0, run.words
    assert {"create", "log-batch", "update", "log-inputs"} <= set(lost)
    assert_whole(gateway.target, run.delivery.runs)


def test_a_stopped_server_costs_nobody_any_time(gateway: Gateway, tmp_path: Path) -> None:
    """A server that was stopped (SIGSTOP) accepts connections, and sends nothing."""
    awake = threading.Event()
    run = Recorded(tmp_path, gateway.url)
    run.delivery.await_first()
    run.begin()
    gateway.fault = lambda handler: bool(awake.wait(60)) and False
    run.train()
    await_kept(tmp_path, "image")
    left, seconds = run.close(patience=2.0)
    assert left > 0
    assert seconds < 20
    awake.set()
    again = Recorded(tmp_path, gateway.url, run.delivery.runs)
    again.end()
    assert again.close()[0] == 0
    assert_whole(gateway.target, again.delivery.runs)


def test_a_slow_server_is_waited_for_only_so_long(gateway: Gateway, tmp_path: Path) -> None:
    gateway.fault = lambda handler: threading.Event().wait(0.7)
    run = Recorded(tmp_path, gateway.url)
    run.begin()
    run.train()
    run.end()
    left, seconds = run.close(patience=1.5)
    assert left > 0
    assert seconds < 20
    gateway.fault = lambda handler: False
    again = Recorded(tmp_path, gateway.url, run.delivery.runs)
    assert again.close()[0] == 0
    assert_whole(gateway.target, again.delivery.runs)


def test_a_server_that_refuses_in_the_middle_is_named_and_the_rest_is_kept(gateway: Gateway, tmp_path: Path) -> None:
    run = Recorded(tmp_path, gateway.url)
    run.delivery.await_first()
    gateway.fault = lambda handler: "log-batch" in handler.path and handler.reply(401, b"who are you?")
    run.begin()
    run.train()
    await_kept(tmp_path, "image")
    deadline = time.monotonic() + 100
    while not run.words:
        assert time.monotonic() < deadline, "nothing is said"
        time.sleep(0.05)
    assert sum("MLFLOW_TRACKING_USERNAME" in words for words in run.words) == 1
    gateway.fault = lambda handler: False
    run.end()
    assert run.close()[0] == 0
    assert_whole(gateway.target, run.delivery.runs)


@pytest.mark.parametrize("path", ["log-batch", "mlflow-artifacts"])
def test_a_server_whose_disk_is_full_keeps_nothing_else_back(gateway: Gateway, tmp_path: Path, path: str) -> None:
    """Its database may be full, or its store of files: what can be sent is sent."""
    run = Recorded(tmp_path, gateway.url)
    run.delivery.await_first()
    gateway.fault = lambda handler: path in handler.path and handler.reply(500, b"no space left on device")
    run.begin()
    run.train()
    await_kept(tmp_path, "image")
    gateway.fault = lambda handler: False
    run.end()
    assert run.close()[0] == 0, run.words
    assert_whole(gateway.target, run.delivery.runs)


def test_a_call_that_is_refused_for_good_keeps_back_no_other(gateway: Gateway, tmp_path: Path) -> None:
    run = Recorded(tmp_path, gateway.url)
    too_long = MetricsLogged(stage="train_prior", step=1, values={"x" * 300: 1.0})
    run.begin()
    run.put(too_long)
    run.train()
    run.end()
    assert run.close()[0] == 1
    assert "one record cannot be sent, and is kept" in run.words[-1]
    assert_whole(gateway.target, run.delivery.runs)


def test_a_server_that_lost_its_database_gets_new_runs(gateway: Gateway, tmp_path: Path) -> None:
    run = Recorded(tmp_path, gateway.url)
    run.begin()
    deadline = time.monotonic() + 100
    while not run.delivery.runs.stages and time.monotonic() < deadline:
        time.sleep(0.05)
    first = run.delivery.runs
    client = MlflowClient(gateway.url)
    for run_id in (first.run_id, *first.stages.values()):
        client.delete_run(run_id)
    run.train()
    run.end()
    assert run.close()[0] == 0
    assert any("no longer has the run's record" in words for words in run.words)
    assert run.delivery.runs.run_id != first.run_id
    assert_whole(gateway.target, run.delivery.runs)


@pytest.mark.parametrize(("status", "expected"), [(401, "MLFLOW_TRACKING_USERNAME"), (404, "add the path below which")])
def test_an_address_that_is_plainly_wrong_fails_before_anything_runs(
    gateway: Gateway, tmp_path: Path, status: int, expected: str
) -> None:
    gateway.fault = lambda handler: handler.reply(status, b"no")
    run = Recorded(tmp_path, gateway.url)
    with pytest.raises(UsageError, match=expected):
        run.delivery.await_first()
    run.close(0)
    assert run.words == []


def test_damaged_records_are_named_and_left_out(gateway: Gateway, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny-1" / "tracking"
    folder.mkdir(parents=True)
    (folder / "000001.jsonl").write_bytes(b'{"kind": "metrics", "time": 1\n\xff\xfe\n{"kind": "other"}\n[]\n')
    run = Recorded(tmp_path, gateway.url)
    run.begin()
    run.train()
    run.end()
    assert run.close()[0] == 0
    assert sum("tracking/000001.jsonl: a damaged record is left out" in words for words in run.words) == 4
    assert kept_files(tmp_path) == []
    assert_whole(gateway.target, run.delivery.runs)


TINY = """
name: tiny
download_shards:
  source: {kind: scenes, num_images: 12, num_corrupt: 4}
  rows_per_shard: 8
  image_size: 16
  min_yield: 0.9
cluster: {num_cpus: 2}
"""


def corgi(*words: str | Path, folder: Path) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    command = [sys.executable, "-m", "pipeline", *map(str, words), "--json"]
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_run_beside_no_server_ends_as_ever_and_is_sent_by_the_next_command(mlflow: int, tmp_path: Path) -> None:
    """It fails, which is a final status like another; whom the config names is notified."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    posted: list[str] = []

    def take(handler: Handler) -> bool:
        posted.append(handler.path)
        return handler.reply(200)

    hook = Gateway(mlflow)
    hook.fault = take
    login = f"http://me:hidden-word@127.0.0.1:{free_port()}"
    keys = (f"store={tmp_path}/store", f"tracking.uri={login}", f"notify.url={hook.url}/hidden-path")
    code, text = corgi("run", tmp_path / "tiny.yaml", *keys, folder=tmp_path)
    assert code == 3, text
    assert "no MLflow server answers" in text
    assert "records could not be sent" in text
    assert "Traceback" not in text
    assert posted == ["/hidden-path"]
    record = next(Store(f"{tmp_path}/store").runs())
    assert (record.status, record.mlflow is not None and record.mlflow.run_id) == ("failed", "")
    kept = "".join(file.read_text() for file in (tmp_path / "store" / "runs").rglob("*") if file.is_file())
    assert "min_yield" in kept
    assert "hidden" not in kept + text

    code, text = corgi(
        "track", "tiny", "--store", f"{tmp_path}/store", "--uri", f"http://127.0.0.1:{mlflow}", folder=tmp_path
    )
    assert code == 0, text
    record = next(Store(f"{tmp_path}/store").runs())
    assert record.mlflow is not None
    found = MlflowClient(f"http://127.0.0.1:{mlflow}").get_run(record.mlflow.run_id)
    assert (found.info.status, found.info.run_name) == ("FAILED", record.run)
    assert not list((tmp_path / "store" / "runs").glob("*/tracking/*"))
    hook.shutdown()
    hook.server_close()
