"""Record a run with MLflow: one run per pipeline run, a nested run per stage; the only file that imports mlflow.

Importing mlflow takes seconds, and so does making a new SQLite database (mlflow runs all of its migrations):
import this module only where a run starts, and open the tracker beside other work.
Everything goes through ``MlflowClient`` and explicit run ids, so that no hidden "active run" is shared.
"""

import io
import json
import logging
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pipeline.errors import UsageError
from pipeline.record import MlflowRuns
from pipeline.tracking_address import explain_refusal, recorded_address, sqlite_address, sqlite_path, usable_address
from stages.contract.events import Event, LoggedImage, Metrics
from stages.contract.stage import StageSummary
from stages.storage.private_folders import user_folder

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at import: nothing is sent anywhere unasked
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault(
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"
)  # it would print names and addresses as they are

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, LoggedModelOutput, LoggedModelStatus, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

FLUSH_SECONDS = 1.0
REACH_SECONDS = 5.0
_MOST_METRICS = 1000  # MLflow's limit for one batch
_MOST_PARAMS = 100
_LONGEST_PARAM = 6000
_STATE_TAG = "corgi.state"
_STATUS = {"done": "FINISHED", "reused": "FINISHED", "failed": "FAILED", "blocked": "KILLED", "interrupted": "KILLED"}

Serving = Mapping[str, tuple[str, float | int | str | None]]


def default_tracking_uri(workspace: Path | None) -> str:
    """Return SQLite inside the workspace, or below the home folder where the store is remote."""
    folder = workspace or user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    database = folder.resolve() / "mlflow.db"
    database.touch(0o600)  # its owner alone reads what is recorded
    return sqlite_address(database)


@dataclass
class _TrackedRun:
    """One MLflow run, what it holds already, and what is still to be sent."""

    run_id: str
    params: dict[str, str] = field(default_factory=dict)
    steps: set[tuple[str, int]] = field(default_factory=set)
    images: set[tuple[str, int]] = field(default_factory=set)
    waiting: list[Metric] = field(default_factory=list)
    open: bool = True

    def add(self, values: Mapping[str, float], step: int = 0) -> None:
        """Queue numbers; a (name, step) that was recorded before a resume is not recorded twice."""
        now = time.time_ns() // 1_000_000
        for name, value in values.items():
            key = _clean(name)
            if (key, step) not in self.steps:
                self.steps.add((key, step))
                self.waiting.append(Metric(key, float(value), now, step))

    def without_curves(self, values: Mapping[str, float]) -> dict[str, float]:
        """Leave out the numbers that have a curve already: a point at step 0 would be a false one in it."""
        curves = {name for name, step in self.steps if step > 0}
        return {name: value for name, value in values.items() if _clean(name) not in curves}


class RunTracker:
    """The MLflow side of one pipeline run; used by the driver process alone, from one thread at a time.

    ``runs`` is stored with the run: given to :meth:`open` again, it makes a resumed run continue the same MLflow runs.
    """

    def __init__(self, client: MlflowClient, runs: MlflowRuns, parent: _TrackedRun, run_name: str) -> None:
        self._client = client
        self._parent = parent
        self._run_name = run_name
        self._stages: dict[str, _TrackedRun] = {}
        self._flushed = time.monotonic()
        self.runs = runs

    @classmethod
    def open(cls, tracking_uri: str, experiment: str, run_name: str, earlier: MlflowRuns | None = None) -> "RunTracker":
        """Connect, and start the parent run or continue the one of ``earlier``."""
        recorded, tracking_uri = recorded_address(tracking_uri), usable_address(tracking_uri)
        _require_reachable(tracking_uri)
        try:
            client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
            experiment_id = _experiment_id(client, experiment, tracking_uri)
            known = earlier if earlier is not None and earlier.tracking_uri == recorded else None
            parent = _reopen(client, known.run_id) if known else None
            if parent is None or known is None:
                tags = {"mlflow.source.name": "corgi", "mlflow.source.type": "PROJECT"}
                parent = _TrackedRun(client.create_run(experiment_id, tags=tags, run_name=run_name).info.run_id)
                known = MlflowRuns(tracking_uri=recorded, experiment_id=experiment_id, run_id="", stages={})
        except UsageError:
            raise
        except Exception as error:  # whatever a server that is no MLflow makes the client raise
            raise UsageError(explain_refusal(error, tracking_uri)) from error
        return cls(client, known.model_copy(update={"run_id": parent.run_id}, deep=True), parent, run_name)

    def log_config(self, config: Mapping[str, Any], yaml_text: str) -> None:
        """Keep the resolved config: as parameters with dotted names, and as the file config.yaml.

        Parameters of MLflow never change: after a resume with other runtime settings, config.yaml is the latest.
        """
        self._log_params(self._parent, config)
        self._client.log_text(self._parent.run_id, yaml_text, "config.yaml")

    def log_provenance(
        self,
        *,
        images: int,
        captioned: int,
        failures: Mapping[str, int],
        skips: Mapping[str, int] | None = None,
        captions: Mapping[str, float] | None = None,
        source: str = "",
        digest: str = "",
    ) -> None:
        """Record what the run learned from: images, captions, failures and skips by cause, and where the data lies.

        ``captions`` is the fraction of the captions that each stage reads which reads any.
        """
        fraction = captioned / images if images else 0.0
        counts = {"images": images, "captioned": captioned, "captioned_fraction": fraction}
        counts |= {f"captions_fraction/{stage}": read for stage, read in (captions or {}).items()}
        by_cause = {f"failed/{cause}": count for cause, count in failures.items()}
        by_cause |= {f"skipped/{cause}": count for cause, count in (skips or {}).items()}
        self._parent.add({f"data/{name}": value for name, value in (counts | by_cause).items()})
        if source:
            profile = json.dumps(counts | {"failures": dict(failures), "skips": dict(skips or {})})
            data = Dataset("images", digest[:36], "folder", json.dumps({"uri": source}), profile=profile)
            self._client.log_inputs(self._parent.run_id, [DatasetInput(data)])
        self.flush()

    def stage_started(self, name: str, config: Mapping[str, Any]) -> None:
        """Start the stage's nested run, or go on in the one of an earlier start."""
        self._log_params(self._stage(name), config)

    def stage_event(self, name: str, event: Event) -> None:
        """Record numbers and images; numbers are sent about once a second. Other events are not for MLflow."""
        run = self._stage(name)
        if isinstance(event, Metrics):
            run.add(event.values, event.step)
            if time.monotonic() - self._flushed >= FLUSH_SECONDS:
                self.flush()
        elif isinstance(event, LoggedImage) and (event.name, event.step) not in run.images:
            from PIL import Image

            run.images.add((event.name, event.step))
            with Image.open(io.BytesIO(event.png)) as image:
                self._client.log_image(run.run_id, image, key=event.name, step=event.step, synchronous=True)

    def stage_finished(self, name: str, state: str, seconds: float, summary: StageSummary | None) -> None:
        """Close the stage's run: ``state`` is done, reused, failed or blocked."""
        run = self._stage(name)
        measured = {} if summary is None else summary.metrics
        counts = {} if summary is None else summary.counts
        run.add(run.without_curves(measured) | {f"counts/{key}": value for key, value in counts.items()})
        if state == "done":
            rate = {"items_per_second": summary.items / seconds} if seconds and summary is not None else {}
            run.add({"seconds": seconds, **rate})
            self._parent.add({f"{name}/seconds": seconds})
        self._parent.add({f"{name}/{key}": value for key, value in measured.items()})
        self.flush()
        self._close(run, state)

    def register_model(self, name: str, bundle: Path, requirements: list[str], settings: Serving) -> str:
        """Log a folder that ``pipeline.serving`` can load and register it; return the URI for ``load_model``.

        ``settings`` maps each parameter that ``predict`` takes to its MLflow type and default. Weights stay in their
        own formats: nothing is pickled. A resumed run registers its model once.
        """
        from mlflow.pyfunc import save_model

        if self.runs.model_uri is not None:
            return self.runs.model_uri
        experiment, run_id = self.runs.experiment_id, self._parent.run_id
        model = self._client.create_logged_model(
            experiment, name=name, source_run_id=run_id, model_type="text-to-image"
        )
        with tempfile.TemporaryDirectory(prefix="corgi-model-") as folder:
            path = Path(folder) / "model"
            save_model(
                path,
                loader_module="pipeline.serving",
                data_path=str(bundle),
                signature=_signature(settings),
                input_example=["a large red star in the center"],
                pip_requirements=requirements,
            )
            self._client.log_model_artifacts(model.model_id, str(path))
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        # By its place, not as "models:/<id>": that would be looked up at mlflow's global tracking URI.
        version = self._client.create_model_version(name, model.artifact_location, run_id, model_id=model.model_id)
        self.runs.model_uri = f"models:/{name}/{version.version}"
        return self.runs.model_uri

    def finish(self, status: str) -> None:
        """Close every run that is still open; ``status`` is done, failed or interrupted."""
        self.flush()
        for run in [*self._stages.values(), self._parent]:
            if run.open:
                self._close(run, status)

    def flush(self) -> None:
        """Send what waits."""
        for run in [self._parent, *self._stages.values()]:
            while run.waiting:
                self._client.log_batch(run.run_id, metrics=run.waiting[:_MOST_METRICS])
                del run.waiting[:_MOST_METRICS]
        self._flushed = time.monotonic()

    def _stage(self, name: str) -> _TrackedRun:
        if name not in self._stages:
            known = self.runs.stages.get(name)
            run = _reopen(self._client, known) if known else None
            self._stages[name] = run or self._new_stage(name)
            self.runs.stages[name] = self._stages[name].run_id
        return self._stages[name]

    def _new_stage(self, name: str) -> _TrackedRun:
        tags = {"mlflow.parentRunId": self._parent.run_id, "corgi.stage": name, "corgi.run": self._run_name}
        return _TrackedRun(self._client.create_run(self.runs.experiment_id, tags=tags, run_name=name).info.run_id)

    def _log_params(self, run: _TrackedRun, config: Mapping[str, Any]) -> None:
        new = {key: value for key, value in _flatten(config) if key not in run.params}
        run.params.update(new)
        params = [Param(key, value) for key, value in new.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run.run_id, params=params[start : start + _MOST_PARAMS])

    def _close(self, run: _TrackedRun, state: str) -> None:
        self._client.log_batch(run.run_id, tags=[RunTag(_STATE_TAG, state)])
        self._client.set_terminated(run.run_id, _STATUS[state])
        run.open = False


def _require_reachable(uri: str) -> None:
    """Fail within seconds where no server listens: MLflow itself would try again for minutes."""
    address = urlparse(uri)
    if address.scheme not in {"http", "https"}:
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"tracking.uri: no MLflow server answers at {uri} ({error}); start it, give another address, or leave "
            "tracking.uri out to use SQLite in the store"
        ) from error


def _experiment_id(client: MlflowClient, name: str, tracking_uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=_artifact_folder(tracking_uri)))
    if found.lifecycle_stage != "active":
        raise UsageError(
            f"tracking.experiment: {name!r} was deleted at {tracking_uri}; restore it there "
            f"(mlflow experiments restore -x {found.experiment_id}), or give another name"
        )
    return str(found.experiment_id)


def _artifact_folder(tracking_uri: str) -> str | None:
    """Return the folder beside an SQLite file; None lets a server choose its own."""
    database = sqlite_path(tracking_uri)
    return None if database is None else (database.resolve().parent / "mlartifacts").as_uri()


def _reopen(client: MlflowClient, run_id: str) -> _TrackedRun | None:
    """Go on in a run, knowing what it holds; None where it was deleted."""
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if found.info.lifecycle_stage != "active":
        return None
    client.update_run(run_id, status="RUNNING")
    images = (_image_of(file.path) for file in client.list_artifacts(run_id, "images"))
    return _TrackedRun(run_id, dict(found.data.params), _steps_of(client, found), {image for image in images if image})


def tracked_images(tracking_uri: str, run_id: str) -> dict[tuple[str, int], bytes]:
    """Return the latest image of each name that a run holds, with its step, as PNG."""
    client = MlflowClient(usable_address(tracking_uri))
    latest: dict[str, tuple[int, str]] = {}
    for file in client.list_artifacts(run_id, "images"):
        found = _image_of(file.path)
        if found is not None and file.path.endswith(".png"):
            latest[found[0]] = max(latest.get(found[0], (*found[1:], "")), (found[1], file.path))
    with tempfile.TemporaryDirectory(prefix="corgi-images-") as folder:
        return {
            (name, step): Path(client.download_artifacts(run_id, path, folder)).read_bytes()
            for name, (step, path) in sorted(latest.items())
        }


def _steps_of(client: MlflowClient, run: Run) -> set[tuple[str, int]]:
    histories = (client.get_metric_history(run.info.run_id, key) for key in run.data.metrics)
    return {(entry.key, entry.step) for history in histories for entry in history}


def _image_of(path: str) -> tuple[str, int] | None:
    """Read name and step off the file name that ``log_image`` gives."""
    match = re.search(r"images/(.+)\+step\+(\d+)\+", path)
    return (match[1], int(match[2])) if match else None


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a nested config as dotted keys; lists stay whole, as JSON."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield _clean(name), text[:_LONGEST_PARAM]


def _clean(name: str) -> str:
    """Replace what MLflow does not allow in names."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)


def _signature(settings: Serving) -> Any:
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    params = [ParamSpec(name, DataType[kind], default) for name, (kind, default) in settings.items()]
    outputs = ((DataType.string, "prompt"), (DataType.long, "seed"), (DataType.binary, "image"))
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),  # unnamed: lists and tables alike
        outputs=Schema([ColSpec(kind, name) for kind, name in outputs]),
        params=ParamSchema(params),
    )
