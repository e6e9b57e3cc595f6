"""The tracker against a real MLflow on SQLite: nested runs, resume, images, provenance, and the dashboard."""

import contextlib
import io
import json
import math
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from PIL import Image

from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline.dashboard.server import Shown, serve_dashboard
from pipeline.errors import UsageError
from pipeline.export.bundle import write_bundle
from pipeline.record import MlflowRuns
from pipeline.serving import serving_settings
from pipeline.store import Store
from pipeline.summary import REQUIREMENTS
from pipeline.tracked_runs import metric_history, tracked_images
from pipeline.tracking import MEASURES_FILE, RunTracker
from pipeline.tracking_address import TrackingAway, address_now, default_tracking_uri, is_at_hand, sqlite_path
from stages.contract.events import Log, LoggedImage, LoggedSteps, Metrics
from stages.contract.measures import Measure
from stages.contract.stage import StageSummary
from stages.encoders.config import ClipConfig, FolderClip
from stages.inference.loading import TrainedModels
from stages.inference.sampling import SamplingSettings
from tests.factories import make_record, save_tiny_clip, save_tiny_decoder, save_tiny_prior
from tests.ports import free_port


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One migrated database, copied for every test: the migrations take seconds."""
    folder = tmp_path_factory.mktemp("empty")
    MlflowClient(default_tracking_uri(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return default_tracking_uri(tmp_path)


def png(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def children(client: MlflowClient, runs: MlflowRuns) -> dict[str, Run]:
    query = f"tags.mlflow.parentRunId = '{runs.run_id}'"
    return {run.info.run_name: run for run in client.search_runs([runs.experiment_id], query)}


def steps(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(entry.step, entry.value) for entry in client.get_metric_history(run_id, key)]


def test_a_fault_of_the_database_is_raised_and_its_stack_shown_to_nobody(
    uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(uri)
    run = client.create_run("0")
    with contextlib.closing(sqlite3.connect(sqlite_path(uri) or "")) as database:
        database.execute("DROP TABLE metrics")  # as a full disk: an OperationalError
    with pytest.raises(MlflowException, match="no such table"):
        client.log_metric(run.info.run_id, "loss", 1.0)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_run_is_one_parent_with_a_child_per_stage(uri: str) -> None:
    tracker = RunTracker.open(uri, "shapes", "quickstart-1", None)
    tracker.log_config({"seed": 3, "train_prior": {"kind": "shifted", "layers": [1, 2]}}, "seed: 3\n")
    tracker.stage_started("train_prior", {"kind": "shifted", "optimizer": {"lr": 0.1}})
    tracker.stage_event("train_prior", Metrics({"loss": 0.5}, step=10))
    tracker.stage_event("train_prior", Log("not for the dashboard"))
    measures = {"cosine": Measure(0.9, 0.8, 0.95, 100, "a")}
    summary = StageSummary(
        100, counts={"bad": 2}, metrics={"cosine": 0.9}, measures=measures, protocols={"a": {"seed": "0"}}
    )
    tracker.stage_finished("train_prior", "done", 2.0, summary, 25.0)  # a start that made half of them
    tracker.finish("done")

    client = MlflowClient(uri)
    parent = client.get_run(tracker.runs.run_id)
    assert parent.info.run_name == "quickstart-1"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"seed": "3", "train_prior.kind": "shifted", "train_prior.layers": "[1, 2]"}
    assert parent.data.metrics == {"train_prior/cosine": 0.9, "train_prior/seconds": 2.0}
    assert Path(client.download_artifacts(parent.info.run_id, "config.yaml")).read_text() == "seed: 3\n"

    child = children(client, tracker.runs)["train_prior"]
    assert child.info.run_id == tracker.runs.stages["train_prior"]
    assert child.info.status == "FINISHED"
    assert child.data.params == {"kind": "shifted", "optimizer.lr": "0.1"}
    expected = {"loss": 0.5, "cosine": 0.9, "counts/bad": 2, "seconds": 2.0, "items_per_second": 25.0}
    assert child.data.metrics == expected
    kept = json.loads(Path(client.download_artifacts(child.info.run_id, MEASURES_FILE)).read_text())
    measure = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 100, "protocol": "a"}
    assert kept == {"measures": {"cosine": measure}, "protocols": {"a": {"seed": "0"}}}


def test_a_resumed_run_goes_on_in_the_same_runs_without_doubled_steps(uri: str) -> None:
    killed = RunTracker.open(uri, "shapes", "run", None)
    killed.stage_started("train_decoder", {"steps": 40})
    for step in (10, 20, 30):
        killed.stage_event("train_decoder", Metrics({"loss": 1.0 / step}, step))
    killed.stage_event("train_decoder", LoggedImage("samples", png(), 20))
    killed.flush()

    resumed = RunTracker.open(uri, "shapes", "run", killed.runs)
    resumed.stage_started("train_decoder", {"steps": 40, "resources.num_workers": 2})
    for step in (20, 30, 40):  # replayed from the checkpoint at step 10
        resumed.stage_event("train_decoder", Metrics({"loss": 1.0 / step}, step))
    for step in (20, 40):
        resumed.stage_event("train_decoder", LoggedImage("samples", png("blue"), step))
    resumed.stage_finished("train_decoder", "done", 1.0, StageSummary(40))
    resumed.finish("done")

    assert resumed.runs == killed.runs
    client = MlflowClient(uri)
    assert list(children(client, resumed.runs)) == ["train_decoder"]
    run_id = resumed.runs.stages["train_decoder"]
    assert steps(client, run_id, "loss") == [(step, 1.0 / step) for step in (10, 20, 30, 40)]
    images = [file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png")]
    assert sorted(path.split("+timestamp")[0] for path in images) == [
        "images/samples+step+20",
        "images/samples+step+40",
    ]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_step_reported_twice_by_a_stage_that_ray_started_again_counts_once(uri: str) -> None:
    tracker = RunTracker.open(uri, "shapes", "run", None)
    for loss in (1.0, 1.5):
        tracker.stage_event("train_prior", Metrics({"loss": loss}, 5))
    tracker.finish("done")
    assert steps(MlflowClient(uri), tracker.runs.stages["train_prior"], "loss") == [(5, 1.0)]


def test_of_logged_steps_what_is_missing_is_recorded_at_its_time_and_the_rest_counts_once(uri: str) -> None:
    logged = LoggedSteps(
        tuple(Metrics({"loss": 1 / step, "rate": 2.0}, step, time=1000 * step) for step in (1, 2, 3, 4))
    )
    killed = RunTracker.open(uri, "shapes", "run", None)
    for step in (1, 3):
        killed.stage_event("train_prior", Metrics({"loss": 1 / step}, step))
    killed.flush()
    tracker = RunTracker.open(uri, "shapes", "run", killed.runs)
    tracker.stage_event("train_prior", Metrics({"loss": 0.25}, 4))
    for _ in range(2):
        tracker.stage_event("train_prior", logged)
        tracker.flush()
    history = MlflowClient(uri).get_metric_history(tracker.runs.stages["train_prior"], "loss")
    assert sorted((one.step, one.value) for one in history) == [(step, 1 / step) for step in (1, 2, 3, 4)]
    assert next(one.timestamp for one in history if one.step == 2) == 2000
    rates = MlflowClient(uri).get_metric_history(tracker.runs.stages["train_prior"], "rate")
    assert [(one.step, one.timestamp) for one in rates] == [(step, 1000 * step) for step in (1, 2, 3, 4)]


def test_the_summary_adds_no_point_to_a_curve(uri: str) -> None:
    tracker = RunTracker.open(uri, "shapes", "quickstart-1", None)
    tracker.stage_event("train_prior", Metrics({"cosine/steps_8": 0.8}, step=500))
    tracker.stage_event("train_prior", Metrics({"cosine/steps_8": 0.9}, step=1000))
    tracker.stage_finished("train_prior", "done", 2.0, StageSummary(1, metrics={"cosine/steps_8": 0.9, "pairs": 7.0}))
    tracker.finish("done")

    client = MlflowClient(uri)
    run_id = tracker.runs.stages["train_prior"]
    assert steps(client, run_id, "cosine/steps_8") == [(500, 0.8), (1000, 0.9)]
    assert steps(client, run_id, "pairs") == [(0, 7.0)]
    assert client.get_run(tracker.runs.run_id).data.metrics["train_prior/cosine/steps_8"] == 0.9


def test_a_stage_that_is_made_again_has_its_new_figures(uri: str) -> None:
    """In the same driver, after it was taken as it was; and by a later one; reported twice, and belatedly."""

    def summary_of(images: int, **lost: int) -> StageSummary:
        metrics = {"yield": images / 100, "same": 7.0, "spread": float("inf")}
        return StageSummary(images, counts={"images": images, **lost}, metrics=metrics)

    runs, client, before = None, MlflowClient(uri), summary_of(90, failed=3, gone=2)
    for number, summary in enumerate((summary_of(80, failed=13), summary_of(70, failed=23)), 1):
        tracker = RunTracker.open(uri, "shapes", "run", runs)
        runs = tracker.runs
        reported = [(10, "reused", before), (20, "done", summary)]
        for time, state, one in [*reported, *reported[::-1]]:
            with tracker.as_of(1000 * number + time):
                tracker.stage_finished("download_shards", state, 5.0 * number, one, one.items / (5.0 * number))
                failures = {name: one.counts[name] for name in ("failed", "gone") if name in one.counts}
                tracker.log_provenance(images=one.counts["images"], captioned=9, failures=failures)
        tracker.finish("done")
        child = client.get_run(tracker.runs.stages["download_shards"]).data.metrics
        counts = {f"counts/{name}": value for name, value in summary.counts.items()}
        assert {name: child[name] for name in counts} == counts
        assert (child["counts/gone"], child["yield"], child["seconds"]) == (0, summary.metrics["yield"], 5.0 * number)
        assert child["items_per_second"] == summary.items / (5.0 * number)
        whole = client.get_run(tracker.runs.run_id).data.metrics
        assert (whole["data/images"], whole["data/failed/failed"], whole["data/failed/gone"]) == (
            summary.counts["images"], summary.counts["failed"], 0,
        )  # fmt: skip
        assert (whole["download_shards/yield"], whole["download_shards/seconds"]) == (child["yield"], 5.0 * number)
        assert [point.value for point in metric_history(uri, tracker.runs.run_id, "data/images")] == [summary.items]
        for run_id, name in ((tracker.runs.stages["download_shards"], "same"), (tracker.runs.run_id, "data/captioned")):
            assert len(steps(client, run_id, name)) == 1
        assert len(steps(client, tracker.runs.run_id, "download_shards/spread")) == 1
        before = summary


def test_a_rate_that_nobody_knows_any_more_does_not_stay(uri: str) -> None:
    """Of a stage that goes on with what an earlier start made, and was done before."""
    runs, client, shown = None, MlflowClient(uri), []
    for number, rate in enumerate((None, 40.0, None, None, 20.0)):
        tracker = RunTracker.open(uri, "shapes", "run", runs)
        runs = tracker.runs
        with tracker.as_of(1000 * (number + 1)):
            tracker.stage_finished("fit_gaussians", "done", 5.0 + number, StageSummary(200), rate)
        tracker.finish("done")
        points = metric_history(uri, tracker.runs.stages["fit_gaussians"], "items_per_second")
        assert [point.value for point in points] == ([] if rate is None else [rate])
        shown.append(client.get_run(tracker.runs.stages["fit_gaussians"]).data.metrics.get("items_per_second"))
    assert shown == [None, 40.0, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True), 20.0]
    assert len(steps(client, runs.stages["fit_gaussians"], "items_per_second")) == 3  # NaN once


def test_every_end_of_a_stage_has_its_status(uri: str) -> None:
    tracker = RunTracker.open(uri, "shapes", "run", None)
    tracker.stage_finished("download_shards", "reused", 0.0, StageSummary(5, metrics={"yield": 1.0}))
    tracker.stage_finished("train_prior", "failed", 3.0, None)
    tracker.stage_finished("generate", "blocked", 0.0, None)
    tracker.stage_started("train_decoder", {})
    tracker.finish("interrupted")
    client = MlflowClient(uri)
    found = {
        name: (run.info.status, run.data.tags["corgi.state"]) for name, run in children(client, tracker.runs).items()
    }
    assert found == {
        "download_shards": ("FINISHED", "reused"),
        "train_prior": ("FAILED", "failed"),
        "generate": ("KILLED", "blocked"),
        "train_decoder": ("KILLED", "interrupted"),
    }
    assert client.get_run(tracker.runs.run_id).info.status == "KILLED"


def test_provenance_names_images_captions_failures_and_source(uri: str) -> None:
    tracker = RunTracker.open(uri, "shapes", "run", None)
    failures = {"http_404": 3, "not an image: bad": 1}
    tracker.log_provenance(
        images=200, captioned=20, failures=failures, skips={"unsupported_format": 5},
        captions={"train_clip": 1.0, "train_prior": 0.1},
        source="/data/artifact", digest="abc",
    )  # fmt: skip
    run = MlflowClient(uri).get_run(tracker.runs.run_id)
    assert run.data.metrics == {
        "data/images": 200,
        "data/captioned": 20,
        "data/captioned_fraction": 0.1,
        "data/captions_fraction/train_clip": 1.0,
        "data/captions_fraction/train_prior": 0.1,
        "data/failed/http_404": 3,
        "data/failed/not an image_ bad": 1,
        "data/skipped/unsupported_format": 5,
    }
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.digest, "/data/artifact" in dataset.source) == ("abc", True)


def test_more_metrics_than_mlflow_takes_at_once(uri: str) -> None:
    tracker = RunTracker.open(uri, "shapes", "run", None)
    tracker.stage_event("train_prior", Metrics({f"m{index}": 1.0 for index in range(1203)}, 1))
    tracker.finish("done")
    run = MlflowClient(uri).get_run(tracker.runs.stages["train_prior"])
    assert len(run.data.metrics) == 1203


def test_runs_deleted_from_the_dashboard_are_made_anew(uri: str) -> None:
    first = RunTracker.open(uri, "shapes", "run", None)
    MlflowClient(uri).delete_run(first.runs.run_id)
    second = RunTracker.open(uri, "shapes", "run", first.runs)
    assert second.runs.run_id != first.runs.run_id


def test_a_deleted_experiment_is_reported(uri: str) -> None:
    first = RunTracker.open(uri, "shapes", "run", None)
    MlflowClient(uri).delete_experiment(first.runs.experiment_id)
    with pytest.raises(UsageError, match=r"tracking\.experiment: 'shapes' was deleted"):
        RunTracker.open(uri, "shapes", "run", None)


@pytest.mark.parametrize("move", [Path.rename, shutil.copytree])
def test_images_are_found_where_a_store_was_moved_or_copied_to(
    empty_database: Path, tmp_path: Path, move: Callable[[Path, Path], object]
) -> None:
    before, after = tmp_path / "before 100%", tmp_path / "after"
    before.mkdir()
    shutil.copy(empty_database, before / "mlflow.db")
    tracker = RunTracker.open(default_tracking_uri(before), "shapes", "run", None)
    tracker.stage_started("train_decoder", {})
    tracker.stage_event("train_decoder", LoggedImage("grid", png(), 4))
    tracker.finish("done")
    record = make_record("run", mlflow=tracker.runs)
    assert record.mlflow is not None
    move(before, after)
    address = address_now(record.mlflow.tracking_uri, after)
    assert sqlite_path(address) == after / "mlflow.db"
    assert is_at_hand(address, after)
    if before.exists():
        (before / "mlartifacts").rename(tmp_path / "away")  # the copy is whole by itself
    assert tracked_images(address, record.mlflow.stages["train_decoder"]) == {("grid", 4): png()}
    assert address_now("http://tracking.example", after) == "http://tracking.example"
    assert address_now(address, None) == address


def test_an_unreachable_server_is_reported_at_once() -> None:
    with pytest.raises(TrackingAway, match="no MLflow server answers"):
        RunTracker.open(f"http://127.0.0.1:{free_port()}", "shapes", "run", None)


def test_the_dashboard_shows_the_runs_and_a_server_uri_works_for_tracking(uri: str, tmp_path: Path) -> None:
    local = RunTracker.open(uri, "shapes", "local-run", None)
    local.finish("done")
    shown = Shown(str(tmp_path), uri)
    port = free_port()
    with serve_dashboard(shown, "127.0.0.1", port) as (whole, _):
        url = f"{whole}/mlflow"
        page = urllib.request.urlopen(url, timeout=60).read().decode()
        assert "<title>MLflow</title>" in page
        with pytest.raises(UsageError, match="cannot listen"), serve_dashboard(shown, "127.0.0.1", port):
            pass
        remote = RunTracker.open(url, "shapes", "remote-run", None)
        remote.stage_event("train_prior", Metrics({"loss": 1.0}, 1))
        remote.finish("done")
        found = MlflowClient(url).search_runs([remote.runs.experiment_id])
        assert {run.info.run_name for run in found} == {"local-run", "remote-run", "train_prior"}
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_registered_model_generates_images_without_the_run_that_made_it(uri: str, tmp_path: Path) -> None:
    clip = save_tiny_clip(tmp_path / "clip")
    models = ClipConfig(models=(FolderClip(kind="folder", path=clip),))
    prior, decoder = save_tiny_prior(tmp_path / "p", clip), save_tiny_decoder(tmp_path / "d", clip)
    settings = SamplingSettings(PriorSampling(num_steps=2), DecoderSampling(num_steps=2))
    write_bundle(tmp_path / "bundle", TrainedModels(models, prior, decoder), settings, run="run")

    tracker = RunTracker.open(uri, "shapes", "run", None)
    registered = tracker.register_model("shapes", tmp_path / "bundle", REQUIREMENTS, serving_settings(settings))
    again = RunTracker.open(uri, "shapes", "run", tracker.runs)
    assert again.register_model("shapes", tmp_path / "bundle", [], serving_settings(settings)) == registered
    assert registered == "models:/shapes/1"
    for folder in ("clip", "p", "d", "bundle"):
        shutil.rmtree(tmp_path / folder)

    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(registered)
    table = loaded.predict(pd.DataFrame({"prompt": ["a red star", "a blue ring"]}), params={"seed": 3})
    assert table["seed"].tolist() == [3, 4]
    with Image.open(io.BytesIO(table["image"][0])) as image:
        assert image.size == (32, 32)
        assert image.info["prompt"] == "a red star"
    assert loaded.predict(["a red star", "a blue ring"], params={"seed": 3}).equals(table)
    weights = {path.suffix for path in (tmp_path / "mlartifacts").rglob("*") if path.stat().st_size > 10_000}
    assert weights == {".safetensors"}
    assert not list((tmp_path / "mlartifacts").rglob("*.pkl"))


def test_a_dashboard_that_is_ended_takes_its_server_along(uri: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.open_for_writing()
    tracker = RunTracker.open(uri, "shapes", "quickstart-1", None)
    store.write_run(make_record("quickstart-1", mlflow=tracker.runs))
    port = free_port()
    command = [sys.executable, "-m", "pipeline", "dashboard", "--store", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert re.search(rf"http://127\.0\.0\.1:{port}/[\w-]{{32}}/ ", process.stderr.readline())
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
