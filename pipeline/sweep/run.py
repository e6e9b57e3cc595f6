"""Run all variants of a sweep, one after another, in one Ray session; finished runs are taken as they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.config.loading import load_config
from pipeline.console import plain
from pipeline.experiment import Experiment
from pipeline.record import RunRecord
from pipeline.run import check_experiment, run_experiment
from pipeline.sweep.config import SweepConfig, Variant, variants_of
from stages.storage.artifact import Artifact
from stages.storage.private_folders import user_folder


@dataclass(frozen=True)
class SweepRun:
    """A variant with one value of what is repeated."""

    variant: Variant
    repeat: int | None
    experiment: Experiment

    def to_json(self) -> dict[str, Any]:
        """Return what names it."""
        return {"run": self.experiment.plan.run, "variant": self.variant.label, "repeat": self.repeat}


@dataclass(frozen=True)
class SweepResult:
    """How a run of the sweep ended; figures are its metrics and the documents' numbers, empty where it failed."""

    run: SweepRun
    record: RunRecord
    figures: Mapping[str, float]


def result_of(run: SweepRun, record: RunRecord, documents: Mapping[str, str]) -> SweepResult:
    """Gather the figures of a run that is over; ``documents`` names a JSON file of a stage's artifact."""
    if record.status != "done":
        return SweepResult(run, record, {})
    figures = dict(record.metrics)
    for stage, name in documents.items():
        document = Artifact(record.artifacts[stage], stage, "").read_json(name)
        figures |= dict(_numbers_in(document, stage))
    return SweepResult(run, record, figures)


def _numbers_in(document: Any, name: str) -> Iterator[tuple[str, float]]:
    """Yield every number of a JSON document under the keys that lead to it."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from _numbers_in(value, f"{name}/{key}")
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield name, float(document)


def open_sweep(sweep: SweepConfig, overrides: Sequence[str]) -> list[SweepRun]:
    """Plan every run."""
    runs = []
    for variant in variants_of(sweep):
        for value in (None,) if sweep.repeat is None else sweep.repeat.values:
            words = [*variant.overrides(sweep.repeat, value), *overrides, f"name={sweep.name}"]
            runs.append(SweepRun(variant, value, Experiment.open(load_config(sweep.base, words), str(sweep.base))))
    return runs


def run_sweep(runs: Sequence[SweepRun], documents: Mapping[str, str], console: Console) -> Iterator[SweepResult]:
    """Run what is not done, and yield every result; a run that fails does not keep the others from running."""
    finished = [run.experiment.finished_record() for run in runs]
    todo = [run.experiment for run, record in zip(runs, finished, strict=True) if record is None]
    for experiment in todo[:1]:
        check_experiment(experiment)
    if not todo:
        for run, record in zip(runs, finished, strict=True):
            if record is not None:
                yield result_of(run, record, documents)
        return
    from cluster.session import existing_address, session

    cluster = todo[0].config.cluster
    with session(existing_address(cluster.address), cluster.num_cpus, cluster.allow_unauthenticated):
        for number, run in enumerate(runs, 1):
            console.print(plain(f"[{number}/{len(runs)}] {_title(run)}"))
            experiment = Experiment.open(run.experiment.config, run.experiment.path)  # earlier runs made shared parts
            record = experiment.finished_record() or run_experiment(experiment, console)
            yield result_of(run, record, documents)


def _title(run: SweepRun) -> str:
    return run.variant.label + ("" if run.repeat is None else f", repeat {run.repeat}")


def sweep_folder(runs: Sequence[SweepRun], name: str) -> Path:
    """Return the local folder for the sweep's table and plots, below the store where that is local."""
    root = runs[0].experiment.store.local_root or user_folder()
    folder = root / "sweeps" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
