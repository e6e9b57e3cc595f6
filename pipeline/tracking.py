"""Record a run with MLflow: one run per pipeline run, a nested run per stage; the only file that imports mlflow.

Importing mlflow takes seconds, and so does making a new SQLite database (mlflow runs all of its migrations):
import this module only where a run starts, and open the tracker beside other work.
Everything goes through ``MlflowClient`` and explicit run ids, so that no hidden "active run" is shared.
"""

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.outbox.operations import now_ms
from pipeline.record import MlflowRuns
from pipeline.tracking_address import (
    TrackingAway,
    experiment_id,
    explain_refusal,
    is_outage,
    is_server,
    recorded_address,
    require_response,
    usable_address,
)
from pipeline.tracking_state import TrackedRun, flatten, image_file, long_calls
from stages.contract.events import Event, LoggedImage, LoggedSteps, Metrics, RolledBack
from stages.contract.stage import StageSummary

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at import: nothing is sent anywhere unasked
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it would print addresses as they are
# MLflow itself would wait two minutes for a reply, and try a call eight times. Its asynchronous mode is of no use here:
# its queue has no bound, it drops a batch whose call fails, and at the end the process waits for all calls. What waits
# for the server is in pipeline/outbox/ instead.
os.environ.setdefault(_TIMEOUT := "MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, LoggedModelOutput, LoggedModelStatus, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.multimedia import compress_image_size

for _name, _level in (("mlflow", "WARNING"), ("alembic", "WARNING"), ("mlflow.store.db.utils", "CRITICAL")):
    logging.getLogger(_name).setLevel(_level)  # the last one logs the stack of what it raises, and we report

UPLOAD_SECONDS = 120
CONFIG_FILE = "config.yaml"
REPORT_FILE = "report.html"
MEASURES_FILE = "measures.json"
_MOST_METRICS = 1000  # MLflow's limit for one batch
_MOST_PARAMS = 100
_LONGEST_TAG = 5000  # characters
_STATE_TAG = "corgi.state"
_IDENTITY_TAG = "corgi.id"
_STATUS = {"done": "FINISHED", "reused": "FINISHED", "failed": "FAILED", "blocked": "KILLED", "interrupted": "KILLED"}
Serving = Mapping[str, tuple[str, float | int | str | None]]


class RunTracker:
    """The MLflow side of one pipeline run, used from one thread at a time.

    ``runs`` is stored with the run: given to :meth:`open` again, it makes a resumed run continue the same MLflow runs.
    Whatever is recorded twice counts once, also where the first call was carried out and its reply never came.

    Temporary files lie in the folder ``scratch``, which whoever may cut this thread off removes; none: the machine's.
    """

    def __init__(
        self, client: MlflowClient, runs: MlflowRuns, run_name: str, experiment_id: str, scratch: Path | None = None
    ) -> None:
        self._client = client
        self._scratch = scratch
        self._run_name = run_name
        self._stages: dict[str, TrackedRun] = {}
        self._at: int | None = None
        self.runs = runs
        parent = _reopen(client, runs.run_id) if runs.run_id else None
        if parent is None:
            runs.experiment_id, runs.model_uri = experiment_id, None
            parent = self._find_or_create("", "")
            runs.run_id = parent.run_id
        self._parent = parent

    @classmethod
    def open(
        cls,
        tracking_uri: str,
        experiment: str,
        run_name: str,
        earlier: MlflowRuns | None = None,
        *,
        scratch: Path | None = None,
    ) -> "RunTracker":
        """Connect, and start the parent run or continue the one of ``earlier``.

        Raises:
            UsageError: the address is wrong, or no one who may write there.
            TrackingAway: no server answers now.
        """
        recorded, tracking_uri = recorded_address(tracking_uri), usable_address(tracking_uri)
        try:
            require_response(tracking_uri)
            client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
            found = experiment_id(client, experiment, tracking_uri)
            tracker = cls(client, MlflowRuns.at(recorded, earlier), run_name, found, scratch)
        except (UsageError, TrackingAway):
            raise
        except Exception as error:  # whatever a server that is no MLflow makes the client raise
            if is_server(tracking_uri) and is_outage(error):
                raise TrackingAway.by(error, tracking_uri) from error
            raise UsageError(explain_refusal(error, tracking_uri)) from error
        return tracker

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Yield a folder for the length of the block."""
        folder = Path(tempfile.mkdtemp(prefix="corgi-", dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _log_bytes(self, run_id: str, name: str, content: bytes, folder: str | None = None) -> None:
        """Keep a file of a run; MLflow's ``log_text`` and the like would leave theirs where this thread is cut off."""
        with self.temporary_folder() as here:
            (here / name).write_bytes(content)
            self._client.log_artifact(run_id, str(here / name), folder)

    @contextlib.contextmanager
    def as_of(self, time_ms: int) -> Iterator[None]:
        """Record what is called inside as of that time; numbers wait for :meth:`flush`."""
        self._at = time_ms
        try:
            yield
        finally:
            self._at = None

    def _time(self) -> int:
        return self._at if self._at is not None else now_ms()

    def log_config(self, config: Mapping[str, Any], yaml_text: str) -> None:
        """Keep the resolved config: as parameters with dotted names, and as the file config.yaml.

        Parameters of MLflow never change: after a resume with other runtime settings, config.yaml is the latest.
        """
        self._open_again(self._parent)
        self._log_params(self._parent, config)
        self._log_bytes(self._parent.run_id, CONFIG_FILE, yaml_text.encode())

    def log_provenance(
        self,
        *,
        images: int,
        captioned: int,
        failures: Mapping[str, int],
        skips: Mapping[str, int] | None = None,
        captions: Mapping[str, float] | None = None,
        pseudo_captions: Mapping[str, float] | None = None,
        source: str = "",
        digest: str = "",
    ) -> None:
        """Record what the run learned from: images, captions, failures and skips by cause, and where the data lies.

        ``captions`` is the fraction of the human captions that each stage reads which reads any; ``pseudo_captions``
        counts pseudo-captions, and has their weights.
        """
        counts = {"images": images, "captioned": captioned, "captioned_fraction": captioned / max(images, 1)}
        counts |= {f"captions_fraction/{stage}": read for stage, read in (captions or {}).items()}
        counts |= {f"pseudo_captions/{name}": value for name, value in (pseudo_captions or {}).items()}
        self._parent.set_figures({f"data/{name}": value for name, value in counts.items()}, self._time())
        self._parent.set_counts("data/failed/", failures, self._time())
        self._parent.set_counts("data/skipped/", skips or {}, self._time())
        if source:
            profile = json.dumps(counts | {"failures": dict(failures), "skips": dict(skips or {})})
            data = Dataset("images", digest[:36], "folder", json.dumps({"uri": source}), profile=profile)
            self._client.log_inputs(self._parent.run_id, [DatasetInput(data)])
        self.flush()

    def log_report(self, page: str) -> None:
        """Keep the run's report, one HTML file; the latest replaces those before."""
        self._log_bytes(self._parent.run_id, REPORT_FILE, page.encode())

    def stage_started(self, name: str, config: Mapping[str, Any]) -> None:
        """Start the stage's nested run, or go on in the one of an earlier start."""
        run = self._stage(name)
        self._open_again(run)
        self._log_params(run, config)

    def stage_event(self, name: str, event: Event) -> None:
        """Record numbers, which wait for :meth:`flush`, and images. Other events are not for MLflow."""
        run = self._stage(name)
        if isinstance(event, Metrics):
            run.add(event.values, self._time(), event.step)
        elif isinstance(event, RolledBack):
            run.roll_back(event)
        elif isinstance(event, LoggedSteps):
            run.add_logged(event, self._time())
        elif isinstance(event, LoggedImage) and (event.name, event.step) not in run.images:
            self._log_image(run, event)

    def _log_image(self, run: TrackedRun, event: LoggedImage) -> None:
        """Do what ``MlflowClient.log_image`` does, under a file name that is the same when it is done again."""
        from PIL import Image

        folder, _, file = image_file(run.run_id, event.name, event.step, self._time()).rpartition("/")
        small = io.BytesIO()
        with Image.open(io.BytesIO(event.png)) as image:
            compress_image_size(image).save(small, "WEBP")
        self._log_bytes(run.run_id, f"{file}.png", event.png, folder)
        self._log_bytes(run.run_id, f"{file}+compressed.webp", small.getvalue(), folder)
        self._client.set_tag(run.run_id, "mlflow.loggedImages", True)
        run.images[event.name, event.step] = self._time()

    def stage_finished(
        self, name: str, state: str, seconds: float, summary: StageSummary | None, per_second: float | None = None
    ) -> None:
        """Close the stage's run: ``state`` is done, reused, failed or blocked; ``per_second``: items made, if known."""
        run, now = self._stage(name), self._time()
        measured = {} if summary is None else summary.metrics
        run.set_figures(run.without_curves(measured), now)
        if summary is not None:
            run.set_counts("counts/", summary.counts, now)
        if state == "done":
            run.set_figures({"seconds": seconds}, now)
            run.set_if_known("items_per_second", per_second, now)
            self._parent.set_figures({f"{name}/seconds": seconds}, now)
        self._parent.set_figures({f"{name}/{key}": value for key, value in measured.items()}, now)
        self._log_notes(run, {} if summary is None else summary.notes)
        if summary is not None and summary.measures:
            self._log_measures(run, summary)
        self.flush()
        self._close(run, state)

    def _log_notes(self, run: TrackedRun, notes: Mapping[str, str]) -> None:
        """Record what a stage says in words, such as what it went on from, as tags."""
        tags = [RunTag(f"note.{name}", words[:_LONGEST_TAG]) for name, words in notes.items()]
        if tags:
            self._client.log_batch(run.run_id, tags=tags)

    def _log_measures(self, run: TrackedRun, summary: StageSummary) -> None:
        """Keep interval, number and protocol of the figures that have them, as a file: MLflow's metrics are numbers."""
        measures = {name: asdict(measure) for name, measure in summary.measures.items()}
        content = {"measures": measures, "protocols": dict(summary.protocols)}
        self._log_bytes(run.run_id, MEASURES_FILE, json.dumps(content, indent=2, default=str).encode())

    def register_model(self, name: str, bundle: Path, requirements: list[str], settings: Serving) -> str:
        """Log a folder that ``pipeline.serving`` can load and register it; return the URI for ``load_model``.

        ``settings`` maps each parameter that ``predict`` takes to its MLflow type and default. Weights stay in their
        own formats: nothing is pickled. A resumed run registers its model once.
        """
        from mlflow.pyfunc import save_model

        experiment, run_id = self.runs.experiment_id, self._parent.run_id
        versions = self._client.search_model_versions(f"run_id = '{run_id}'")
        if (known := next((one for one in versions if one.name == name), None)) is not None:
            self.runs.model_uri = f"models:/{name}/{known.version}"
        if self.runs.model_uri is not None:
            return self.runs.model_uri
        begun = self._client.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{name}'")
        model = next(iter(begun), None) or self._client.create_logged_model(
            experiment, name=name, source_run_id=run_id, model_type="text-to-image"
        )
        with self.temporary_folder() as folder:
            path = folder / "model"
            save_model(
                path,
                loader_module="pipeline.serving",
                data_path=str(bundle),
                signature=_signature(settings),
                input_example=["a large red star in the center"],
                pip_requirements=requirements,
            )
            with long_calls(_TIMEOUT, UPLOAD_SECONDS):
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
        """Close every run that is still open, also one of an earlier process; ``status``: done, failed, interrupted."""
        self.flush()
        self._remove_doubles()
        for run in [*self._stages.values(), self._parent]:
            if run.open:
                self._close(run, status)

    def flush(self) -> None:
        """Send what waits."""
        for run in [self._parent, *self._stages.values()]:
            keys = list(run.waiting)
            for first in range(0, len(keys), _MOST_METRICS):
                batch = keys[first : first + _MOST_METRICS]
                metrics = [Metric(key[0], run.waiting[key], key[2], key[1]) for key in batch]
                self._client.log_batch(run.run_id, metrics=metrics)
                for key in batch:
                    del run.waiting[key]

    def forget_waiting(self) -> None:
        """Leave out the numbers that could not be sent: whoever gave them gives them again."""
        for run in [self._parent, *self._stages.values()]:
            run.forget_waiting()

    def _stage(self, name: str) -> TrackedRun:
        if name not in self._stages:
            self._stages[name] = self._find_or_create(name, self.runs.stages.get(name, ""))
            self.runs.stages = self.runs.stages | {name: self._stages[name].run_id}  # set, and so written
        return self._stages[name]

    def _find_or_create(self, stage: str, known: str) -> TrackedRun:
        """Return the run of a stage, or of the whole: one that was made is found even where its id never came back."""
        run = _reopen(self._client, known) if known else None
        if run is not None:
            return run
        identity = f"{self.runs.identity}/{stage}" if stage else self.runs.identity
        for found in self._client.search_runs([self.runs.experiment_id], f"tags.{_IDENTITY_TAG} = '{identity}'"):
            if (run := _reopen(self._client, found.info.run_id)) is not None:
                return run
        tags = {"mlflow.source.name": "corgi", "mlflow.source.type": "PROJECT", _IDENTITY_TAG: identity}
        if stage:
            tags |= {"mlflow.parentRunId": self.runs.run_id, "corgi.stage": stage, "corgi.run": self._run_name}
        made = self._client.create_run(self.runs.experiment_id, self._time(), tags, stage or self._run_name)
        return TrackedRun(made.info.run_id)

    def _remove_doubles(self) -> None:
        """Delete runs that a stalled server made after all, and adopt those that only an earlier process knew."""
        identity = self.runs.identity
        found = self._client.search_runs([self.runs.experiment_id], f"tags.{_IDENTITY_TAG} LIKE '{identity}%'")
        for run in found:
            stage = run.data.tags[_IDENTITY_TAG].partition("/")[2]
            ours = self._stage(stage) if stage else self._parent
            if run.info.run_id != ours.run_id:
                self._client.delete_run(run.info.run_id)

    def _open_again(self, run: TrackedRun) -> None:
        """Let a resumed run be one that runs; what is recorded belatedly of an ended one does not."""
        if not run.open and self._time() > run.ended:
            self._client.update_run(run.run_id, status="RUNNING")
            run.open = True

    def _log_params(self, run: TrackedRun, config: Mapping[str, Any]) -> None:
        new = {key: value for key, value in flatten(config) if key not in run.params}
        params = [Param(key, value) for key, value in new.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run.run_id, params=params[start : start + _MOST_PARAMS])
        run.params.update(new)

    def _close(self, run: TrackedRun, state: str) -> None:
        run.ended = self._time()
        self._client.log_batch(run.run_id, tags=[RunTag(_STATE_TAG, state)])
        self._client.set_terminated(run.run_id, _STATUS[state], end_time=run.ended)
        run.open = False


def _reopen(client: MlflowClient, run_id: str) -> TrackedRun | None:
    """Go on in a run, knowing what it holds; None where it was deleted."""
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if found.info.lifecycle_stage != "active":
        return None
    return TrackedRun.of(client, found)


def open_client(address: str) -> Any:
    """Return MLflow's client of the server or database at an address that is usable as it is."""
    return MlflowClient(address)


def _signature(settings: Serving) -> Any:
    """Return a signature without inputs.

    Of a table, MLflow keeps what an input schema lists, by name or by place; so none fits lists, tables with one column
    of any name, and tables with further columns. ``predict`` takes them all, and looks at what it is given.
    """
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    params = [ParamSpec(name, DataType[kind], default) for name, (kind, default) in settings.items()]
    outputs = ((DataType.string, "prompt"), (DataType.long, "seed"), (DataType.binary, "image"))
    return ModelSignature(
        outputs=Schema([ColSpec(kind, name) for kind, name in outputs]),
        params=ParamSchema(params),
    )
