"""What the dashboard says of runs: a row of its table, and the whole of one, as plain data for its page."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import ValidationError

from pipeline.captions import caption_fraction
from pipeline.comparison import decoder_kind
from pipeline.config.schema import STAGES, RunConfig
from pipeline.dashboard.units import UnitStates
from pipeline.heartbeat import Heartbeat, Life, life_of
from pipeline.progress import USED
from pipeline.record import RunRecord, StageEntry, finite_number
from pipeline.store import Store
from pipeline.summary import FAILED, SKIPPED
from pipeline.tracking_state import flatten
from stages.contract.documents import Manifest
from stages.contract.texts import by_number
from stages.storage.artifact import Artifact

HEADLINE: Final = (
    "evaluate/frechet_distance",
    "evaluate/kernel_distance",
    "evaluate/clip_score/independent",
    "evaluate/clip_score/conditioning",
    "evaluate/accuracy/both",
    "evaluate/cosine/image_true",
    "train_prior/cosine_true",
    "train_prior/retrieval_at_1",
    "train_decoder/held_out_loss",
)
"""Metrics that the table begins with, where a run has them."""
_NEITHER: Final = frozenset(("unrelated", "halves", "ratio", "chance", "control", "reference", "bias", "rows"))
"""Words of metrics that others are compared with, and of those that are to be near to 1 or to say something else."""
_LOWER: Final = frozenset(
    ("distance", "loss", "error", "frechet", "cmmd", "mmd", "fid", "kid", "seconds", "rank", "wait")
)
_HIGHER: Final = frozenset(
    ("accuracy", "both", "color", "shape", "score", "cosine", "retrieval", "precision", "recall", "coverage", "density",
     "psnr", "ssim", "yield", "second")
)  # fmt: skip
MOST_METRICS: Final = 40  # of one request


def run_table(store: Store, metrics: Sequence[str] = ()) -> dict[str, Any]:
    """Return a row of every run that can be read, and the names of all their metrics."""
    records = list(store.runs())
    names = sorted({name for record in records for name in record.metrics}, key=by_number)
    known = set(names)
    shown = [name for name in (metrics or HEADLINE) if name in known][:MOST_METRICS]
    return {
        "runs": [run_row(record, life_of(record, store), shown) for record in records],
        "shown": shown,
        "metrics": names,
        "directions": {name: found for name in names if (found := direction(name)) is not None},
    }


def run_row(record: RunRecord, life: Life, metrics: Iterable[str]) -> dict[str, Any]:
    """Return a run's row: what it is, how it was supervised, and these metrics with their intervals."""
    setting, fraction = supervision(record)
    done = sum(entry.state in ("done", "reused") for entry in record.stages)
    return {
        "run": record.run,
        "name": record.name,
        "status": life.status,
        "words": life.words,
        "started": record.started,
        "seconds": record.seconds,
        "decoder": decoder_kind(record),
        "setting": setting,
        "fraction": fraction,
        "stages_done": done,
        "stages": len(record.plan),
        "metrics": {name: metric(record, name) for name in metrics if name in record.metrics},
    }


def metric(record: RunRecord, name: str) -> dict[str, Any]:
    """Return a metric's value, with its interval, number, protocol and note where the record has them."""
    stage, _, own = name.partition("/")
    entry, measure = record.stage(stage), record.measures.get(name)
    found: dict[str, Any] = {"value": finite_number(record.metrics[name])}
    if measure is not None:
        found |= {"n": measure.n, "protocol": measure.protocol}
        if measure.low is not None and measure.high is not None:
            found |= {"low": finite_number(measure.low), "high": finite_number(measure.high)}
    if entry is not None and own in entry.notes:
        found["about"] = entry.notes[own]
    return found


def direction(name: str) -> Literal["lower", "higher"] | None:
    """Return whether a metric of this name is the better the lower or the higher it is; None: neither is known."""
    words = set(re.split(r"[/_]", name.partition("/")[2]))
    if words & _NEITHER:
        return None
    return "lower" if words & _LOWER else "higher" if words & _HIGHER else None


def supervision(record: RunRecord) -> tuple[str, float | None]:
    """Return how a run's models were supervised, and the fraction of its images whose captions its prior read."""
    planned, embedding = record.plan.get("train_prior"), record.config.get("embed_clip")
    reads_no_text = isinstance(embedding, Mapping) and embedding.get("texts") is False
    if reads_no_text or (planned is not None and planned.identity.get("text_dropout") == 1.0):
        return "language-free", 0.0
    if planned is None:
        return "no prior", None
    fraction = caption_fraction(planned.identity)
    if fraction is None:
        return "no prior", None
    download = record.stage("download_shards")
    counts = {} if download is None else download.counts
    images = counts.get("images", 0)
    read = fraction * (counts.get("captioned", 0) / images if images else 1.0)
    return ("supervised" if read >= 1.0 else "semi-supervised"), read


def run_document(record: RunRecord, store: Store, units: UnitStates) -> dict[str, Any]:
    """Return what is known of one run: its graph with how far each stage is, losses by cause, metrics, config."""
    life, inputs = life_of(record, store), _inputs(record, store)
    return run_row(record, life, sorted(record.metrics, key=by_number)) | {
        "finished": record.finished,
        "config_path": record.config_path,
        "driver": driver(record, store),
        "graph": [
            stage_node(record, name, life)
            | {
                "inputs": inputs.get(name, []),
                "units": units.of(store.artifact(name, record.plan[name].fingerprint), life.workers.get(name)),
            }
            for name in STAGES
            if name in record.plan
        ],
        "config": dict(flatten(record.config)),
        "has": dict.fromkeys(record.plan, True),
    }


def driver(record: RunRecord, store: Store) -> dict[str, Any] | None:
    """Return which process drives a run that goes on, and its last sign of life; None: it does not, or gave none."""
    if record.status != "running":
        return None
    try:
        found = Heartbeat.model_validate(store.read_heartbeat(record.run))
    except ValidationError:
        return None
    return {"host": found.host, "pid": found.pid, "time": found.time.isoformat()}


def stage_node(record: RunRecord, name: str, life: Life) -> dict[str, Any]:
    """Return a node of the graph: its state, how far it is, and what is measured of it."""
    entry = record.stage(name)
    state: str = "waiting" if entry is None else entry.state
    is_running = state == "running"  # a sign of life may be older than the record
    progress = life.progress.get(name) if is_running else None
    workers = life.workers.get(name) if is_running else None
    if is_running and life.status != "running":
        state = "lost"
    return {
        "name": name,
        "state": state,
        "fingerprint": record.plan[name].fingerprint,
        "progress": None if progress is None else progress.model_dump(),
        "workers": None if workers is None else workers.model_dump(mode="json"),
        "used": _used(record, name) if progress is None else progress.used,
        **({} if entry is None else _entry(entry, life)),
    }


def _entry(entry: StageEntry, life: Life) -> dict[str, Any]:
    return {
        "seconds": life.seconds_of(entry),
        "items": entry.items,
        "item_name": entry.item_name,
        "rate": entry.rate,
        "error": entry.error,
        "beside": entry.upstream or [],
        "lost": {name: count for name, count in entry.counts.items() if name.startswith((FAILED, SKIPPED, "removed_"))},
        "counts": entry.counts,
        "where": entry.notes.get("samples_per_second", ""),
    }


def _used(record: RunRecord, stage: str) -> dict[str, float]:
    """Return data wait and the use of processors of a stage that has trained."""
    found = {name: finite_number(record.metrics.get(f"{stage}/{name}")) for name in USED}
    return {name: value for name, value in found.items() if value is not None}


def _inputs(record: RunRecord, store: Store) -> dict[str, list[str]]:
    """Return the stages of the run that each of its stages reads; of a config of another version, of what is done."""
    try:
        config = RunConfig.model_validate(record.config)
        found = {name: list(config.inputs_of(section)) for name, section in config.stages().items()}
    except ValidationError:
        found = {name: _made_from(store.artifact(name, one.fingerprint)) for name, one in record.plan.items()}
    return {name: [one for one in inputs if one in record.plan] for name, inputs in found.items()}


def _made_from(artifact: Artifact) -> list[str]:
    return list(Manifest.of(artifact).inputs) if artifact.is_complete else []


def differences(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the keys of the runs' configs whose values differ, with the value of each; None: it has none."""
    flat = [dict(flatten(record.config)) for record in records]
    keys = sorted({key for one in flat for key in one})
    rows = [(key, [one.get(key) for one in flat]) for key in keys]
    return [{"key": key, "values": values} for key, values in rows if len(set(values)) > 1]
