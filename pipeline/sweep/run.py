"""Run all variants of a sweep, one after another, in one Ray session; finished runs are taken as they are."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from cluster.errors import ClusterError
from pipeline.config.loading import load_config
from pipeline.console import plain
from pipeline.errors import Interrupted, PipelineError, Superseded, UsageError
from pipeline.experiment import Experiment
from pipeline.record import RunRecord
from pipeline.run import check_experiment, run_experiment
from pipeline.sweep.config import SweepConfig, Variant, variants_of
from pipeline.sweep.settings import require_base_keys
from stages.contract.errors import LeaseLost, StageError
from stages.storage.artifact import Artifact
from stages.storage.private_folders import user_folder

RunOne = Callable[[Experiment, Console], RunRecord]
ENDING: Final = (ClusterError, Superseded, LeaseLost)
"""Errors after which no further run of the sweep can be started; results so far are kept."""
_MOST_NAMED = 3  # of the runs that are refused for one reason


@dataclass(frozen=True)
class SweepRun:
    """A variant with one value of what is repeated."""

    variant: Variant
    repeat: int | None
    experiment: Experiment

    @property
    def title(self) -> str:
        """The run as people read it."""
        return _title(self.variant, self.repeat)

    def to_json(self) -> dict[str, Any]:
        """Return what names it."""
        return {"run": self.experiment.plan.run, "variant": self.variant.label, "repeat": self.repeat}


@dataclass(frozen=True)
class SweepResult:
    """How a run of the sweep ended; figures are its metrics and the documents' numbers, empty where it failed.

    ``error`` says why it was refused, or why numbers of it are missing.
    """

    run: SweepRun
    record: RunRecord
    figures: Mapping[str, float]
    error: str = ""
    was_run: bool = True
    """Whether the sweep came to it before something ended the sweep."""

    @property
    def status(self) -> str:
        """How it ended, in a word."""
        return self.record.status if self.was_run else "not run"

    @property
    def is_whole(self) -> bool:
        """Whether it ended well and all its figures could be read."""
        return self.status == "done" and not self.error


def result_of(run: SweepRun, record: RunRecord, documents: Mapping[str, str]) -> SweepResult:
    """Gather the figures of a run that is over; ``documents`` names a JSON file of a stage's artifact.

    Of a stage that the run does not have, there are none.
    """
    if record.status != "done":
        return SweepResult(run, record, {})
    figures, faults = dict(record.metrics), []
    for stage, name in documents.items():
        if stage not in record.artifacts:
            continue
        try:
            document = Artifact(record.artifacts[stage], stage, "").read_json(name)
        except StageError as error:
            faults.append(str(error))
        except OSError as error:  # it may not be read
            faults.append(f"documents.{stage}: {name} cannot be read ({error.strerror or error}); name a JSON file")
        else:
            figures |= dict(_numbers_in(document, stage))
    return SweepResult(run, record, figures, "; ".join(faults))


def refused_result(run: SweepRun, error: Exception) -> SweepResult:
    """Return the result of a run that ended in an error or a signal; the store's record may be another driver's."""
    from pipeline.results import new_record

    experiment = run.experiment
    record = new_record(experiment.plan, experiment.path, experiment.config.shown())
    status = "interrupted" if isinstance(error, Interrupted) else "failed"
    return SweepResult(run, record.model_copy(update={"status": status}), {}, str(error))


def _numbers_in(document: Any, name: str) -> Iterator[tuple[str, float]]:
    """Yield every number of a JSON document under the keys that lead to it."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from _numbers_in(value, f"{name}/{key}")
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield name, float(document)


def open_sweep(sweep: SweepConfig, overrides: Sequence[str]) -> list[SweepRun]:
    """Plan every run; UsageError: some cannot be planned, or an override is of what the sweep sets."""
    settings: dict[str, Mapping[str, Sequence[Any]]] = {
        f"groups.{name}": group.settings for name, group in sweep.groups.items()
    }
    require_base_keys(overrides, settings | ({} if sweep.repeat is None else {"repeat": sweep.repeat.settings}))
    runs: list[SweepRun] = []
    refused = _Refused()
    for variant in variants_of(sweep):
        for value in (None,) if sweep.repeat is None else sweep.repeat.values:
            words = [*variant.overrides(sweep.repeat, value), *overrides, f"name={sweep.name}"]
            with refused.collecting(_title(variant, value)):
                experiment = Experiment.open(load_config(sweep.base, words), str(sweep.base))
                runs.append(SweepRun(variant, value, experiment))
    refused.report()
    return runs


def check_runs(runs: Sequence[SweepRun]) -> None:
    """Check all runs before the first of them is started; what one takes from a run before it need not be there yet.

    Raises:
        UsageError: some cannot be run; each reason is said once, with the runs that it holds for.
    """
    refused = _Refused()
    to_come: set[str] = set()
    for run in runs:
        with refused.collecting(run.title):
            check_experiment(run.experiment, to_come)
        to_come |= {stage.fingerprint for stage in run.experiment.plan.stages.values() if not stage.reused_from}
    refused.report()


class _Refused:
    """The runs that cannot be run, by the reason."""

    def __init__(self) -> None:
        self._titles: dict[str, list[str]] = {}
        self._asked = 0

    @contextlib.contextmanager
    def collecting(self, title: str) -> Iterator[None]:
        """Keep the error of the block."""
        self._asked += 1
        try:
            yield
        except PipelineError as error:
            self._titles.setdefault(str(error), []).append(title)

    def report(self) -> None:
        """Raise UsageError where there is one, which says each reason once."""
        if not self._titles:
            return
        lines = [f"{name_some(titles)}: {reason}" for reason, titles in self._titles.items()]
        count = sum(map(len, self._titles.values()))
        raise UsageError(
            "\n".join([f"sweep: {count} of {self._asked} runs cannot be run, and nothing was started:", *lines])
        )


def name_some(titles: Sequence[str]) -> str:
    """Return the first of the titles, and how many more there are."""
    more = len(titles) - _MOST_NAMED
    return "; ".join(titles[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _title(variant: Variant, repeat: int | None) -> str:
    return variant.label + ("" if repeat is None else f", repeat {repeat}")


def run_sweep(runs: Sequence[SweepRun], documents: Mapping[str, str], console: Console) -> Iterator[SweepResult]:
    """Run what is not done, and yield every result; a run that fails does not keep the others from running.

    Raises:
        UsageError: some runs cannot be run as they are; nothing was started.
        ClusterError, Superseded, LeaseLost: it ended early; a result was yielded for each run all the same.
    """
    finished = [run.experiment.finished_record() for run in runs]
    todo = [run for run, record in zip(runs, finished, strict=True) if record is None]
    check_runs(todo)
    if not todo:
        for run, record in zip(runs, finished, strict=True):
            if record is not None:
                yield _said(result_of(run, record, documents), console)
        return
    yield from with_those_not_run(runs, _run_all(runs, todo[0], documents, console), documents)


def _run_all(
    runs: Sequence[SweepRun], first: SweepRun, documents: Mapping[str, str], console: Console
) -> Iterator[SweepResult]:
    from cluster.session import existing_address, session

    cluster = first.experiment.config.cluster
    with session(existing_address(cluster.address), cluster.num_cpus, cluster.allow_unauthenticated):
        for number, run in enumerate(runs, 1):
            console.print(plain(f"[{number}/{len(runs)}] {run.title}"))
            yield _said(result_of_run(run, documents, console), console)


def with_those_not_run(
    runs: Sequence[SweepRun], results: Iterator[SweepResult], documents: Mapping[str, str]
) -> Iterator[SweepResult]:
    """Yield the results, and where an error ends them one for each run that is left; then raise the error.

    The first of those left that is not done is the one that the error met; the others were not run.
    """
    given = 0
    try:
        for result in results:
            given += 1
            yield result
    except ENDING as error:
        yield from results_after(runs[given:], error, documents)
        raise


def results_after(runs: Sequence[SweepRun], error: Exception, documents: Mapping[str, str]) -> Iterator[SweepResult]:
    """Yield a result for each run that is left when an error ends the sweep; those done before count as ever."""
    has_failed = False
    for run in runs:
        if (record := run.experiment.finished_record()) is not None:
            yield result_of(run, record, documents)
        else:
            yield (
                replace(refused_result(run, error), was_run=False, error="")
                if has_failed
                else refused_result(run, error)
            )
            has_failed = True


def result_of_run(
    run: SweepRun, documents: Mapping[str, str], console: Console, run_one: RunOne = run_experiment
) -> SweepResult:
    """Run it unless it is done; an error that is its own is in the result, those that end the sweep are raised."""
    try:
        experiment = Experiment.open(run.experiment.config, run.experiment.path)  # earlier runs made shared parts
        record = experiment.finished_record() or run_one(experiment, console)
    except (Interrupted, Superseded, LeaseLost):
        raise
    except (PipelineError, StageError) as error:
        return refused_result(run, error)
    return result_of(run, record, documents)


def _said(result: SweepResult, console: Console) -> SweepResult:
    if result.error:
        console.print(plain(f"{result.run.title}: {result.error}"))
    return result


def sweep_folder(runs: Sequence[SweepRun], name: str) -> Path:
    """Return the local folder for the sweep's table and plots, below the store where that is local."""
    root = runs[0].experiment.store.local_root or user_folder()
    folder = root / "sweeps" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
