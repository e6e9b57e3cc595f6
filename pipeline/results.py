"""How stages end, what is recorded of it, and who observes a run."""

import datetime
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.session import job_folder
from pipeline.errors import UsageError
from pipeline.plan import Plan, PlannedStage
from pipeline.record import PlannedEntry, RunRecord, StageEntry, StageState, Status, rate_of
from pipeline.store import RECORD, Store
from stages.contract.documents import Manifest
from stages.contract.errors import DamagedFile
from stages.contract.events import Event
from stages.contract.secrets import redact_addresses
from stages.contract.stage import Allocation, StageSummary
from stages.storage.filesystems import open_address

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """How one stage ended; ``seconds`` counts from its dispatch, ``startup_seconds`` to its first progress."""

    name: str
    state: StageState
    seconds: float = 0.0
    startup_seconds: float = 0.0
    summary: StageSummary | None = None
    error: str = ""
    bad_input: bool = False  # the stage refused its input; nothing is wrong with the machines or the code
    trace: str = ""
    damage: DamagedFile | None = None  # what it failed of, where it is a file of an artifact
    upstream: tuple[str, ...] = ()  # inputs that were still being made when it started
    made: int | None = None  # items of the summary that this start made; None: not known

    @property
    def rate(self) -> float | None:
        """Items that this start made a second, without its start-up; None: not known."""
        return rate_of(self.made, self.seconds, self.startup_seconds)


class Observer(Protocol):
    """What observes a run: progress view, tracker, logs."""

    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        """Note that a stage starts."""

    def event(self, name: str, event: Event) -> None:
        """Note what a running stage reported."""

    def finished(self, result: StageResult) -> None:
        """Note how a stage ended."""


def reused_result(stage: PlannedStage, store: Store) -> StageResult:
    """Return the result of a stage that is already complete in the store."""
    manifest = Manifest.of(store.artifact(stage.name, stage.fingerprint))
    return StageResult(stage.name, "reused", summary=manifest.summary)


def earlier_record(store: Store, run: str) -> RunRecord | None:
    """Return the record that an earlier start of a run left, or None; a damaged one is set aside, with a warning.

    It is called by the driver that holds the run's lease and writes the next record.
    """
    try:
        return store.read_run(run)
    except UsageError as error:
        what = str(error).partition(": expected")[0].partition(": is not")[0]
        fs, folder = open_address(f"{store.uri}/runs/{run}")
        fs.mv(f"{folder}/{RECORD}", f"{folder}/{RECORD}.damaged")
        _log.warning(
            "%s: a new record and new runs of MLflow are begun; what was found is kept as %s.damaged", what, RECORD
        )
        return None


def new_record(plan: Plan, config_path: str, resolved: Mapping[str, Any]) -> RunRecord:
    """Return the record of a run that is about to start."""
    planned = {
        stage.name: PlannedEntry(fingerprint=stage.fingerprint, identity=dict(stage.identity))
        for stage in plan.stages.values()
    }
    config = without_job_folder(resolved)
    return RunRecord(
        run=plan.run, name=plan.name, status="running", started=_now(), config_path=redact_addresses(config_path),
        config=config, plan=planned, stages=[], metrics={}, artifacts={}, mlflow=None,
    )  # fmt: skip


def without_job_folder(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration whose paths in a job's own folder are relative: it is gone when the record is read."""
    folder = job_folder()
    return dict(config) if folder is None else {key: _relative(one, f"{folder}/") for key, one in config.items()}


def _relative(tree: Any, folder: str) -> Any:
    if isinstance(tree, str):
        return tree.removeprefix(folder)
    if isinstance(tree, Mapping):
        return {key: _relative(value, folder) for key, value in tree.items()}
    return [_relative(value, folder) for value in tree] if isinstance(tree, list) else tree


def close_record(
    record: RunRecord, results: Mapping[str, StageResult], plan: Plan, store: Store, *, status: Status
) -> RunRecord:
    """Return the record with how every stage ended."""
    return update_record(record, results, plan, store).model_copy(update={"status": status, "finished": _now()})


def update_record(record: RunRecord, results: Mapping[str, StageResult], plan: Plan, store: Store) -> RunRecord:
    """Return the record with how far the stages are."""
    finished = {name for name, result in results.items() if result.state in {"done", "reused"}}
    found = {
        "stages": [
            _stage_entry(result, plan.stages[name].fingerprint, store.log_address(plan.run, f"{name}.jsonl"))
            for name, result in results.items()
        ],
        "metrics": {
            f"{name}/{key}": value
            for name, result in results.items()
            if result.summary is not None
            for key, value in result.summary.metrics.items()
        },
        "measures": {
            f"{name}/{key}": measure
            for name, result in results.items()
            if result.summary is not None
            for key, measure in result.summary.measures.items()
        },
        "protocols": {
            digest: protocol
            for result in results.values()
            if result.summary is not None
            for digest, protocol in result.summary.protocols.items()
        },
        "artifacts": {name: store.artifact(name, plan.stages[name].fingerprint).uri for name in finished},
    }
    return record.model_copy(update=found)


def _stage_entry(result: StageResult, fingerprint: str, log: str) -> StageEntry:
    given: dict[str, Any] = {}
    if result.upstream:
        given["upstream"] = list(result.upstream)
    if result.error:
        given |= {"error": result.error, "bad_input": result.bad_input}
    if (summary := result.summary) is not None:
        given |= {"items": summary.items, "item_name": summary.item_name}
        given |= {} if result.made is None else {"made": result.made}
        given |= {"counts": dict(summary.counts), "notes": dict(summary.notes)}
    return StageEntry(
        name=result.name, state=result.state, seconds=round(result.seconds, 2),
        startup_seconds=round(result.startup_seconds, 2), **given, fingerprint=fingerprint, log=log,
    )  # fmt: skip


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
