"""Find what no kept run needs: artifacts, models from outside, and runs that are to be forgotten.

A run needs the artifacts of its plan, finished or not, and the models that the plan names by their content. Runs that
are not over are always kept. Where the record of a run cannot be read, what it needs is not known, and nothing is
garbage.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pipeline.config.schema import STAGES
from pipeline.errors import UsageError
from pipeline.heartbeat import life_of
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.formats.model_folders import load_model_config
from stages.formats.stored_models import model_in
from stages.storage.artifact import Artifact

OVER = ("done", "failed", "interrupted", "lost")
_MOST_NAMED = 3
_PRIOR = "train_prior"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which runs are to be forgotten; with nothing given, none."""

    runs: Sequence[str] = ()
    """Ids, or their beginnings."""
    keep_last: int | None = None
    """All but so many of the latest."""
    older_than: timedelta | None = None
    """Those that were started longer ago."""


@dataclass(frozen=True)
class Item:
    """Something that may be deleted."""

    folder: Artifact
    what: str
    size: int
    why: str
    record: RunRecord | None = None
    """Of a run, as it was found."""


@dataclass(frozen=True)
class Garbage:
    """What a store holds that no kept run needs, and how many runs are kept."""

    items: Sequence[Item]
    kept_runs: int
    forgotten: Sequence[str]

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(item.size for item in self.items)


def find_garbage(store: Store, choice: Choice) -> Garbage:
    """Return what can be deleted.

    Raises:
        UsageError: no run has a name of the choice, or one that is not over has; or a record cannot be read.
    """
    records = read_records(store)
    forgotten = _forgotten(store, records, choice)
    kept = [record for record in records if record.run not in forgotten]
    needed, named = needs_of(kept), identities_of(kept, store)
    last = needs_of([record for record in records if record.run in forgotten])
    items = [
        _item(artifact, "artifact", "only forgotten runs need it" if name_of(artifact) in last else "no run needs it")
        for artifact in store.artifacts(STAGES)
        if name_of(artifact) not in needed
    ]
    items += [
        _item(model_in(store.uri, digest), "model", "no kept run names it")
        for digest in store.model_digests()
        if digest not in named
    ]
    found = {record.run: record for record in records}
    items += [
        replace(_item(run_folder(store, run), "run", "to be forgotten"), record=found[run]) for run in sorted(forgotten)
    ]
    return Garbage(items, len(kept), sorted(forgotten))


def read_records(store: Store) -> list[RunRecord]:
    """Return the records of all runs, the latest first; UsageError: one cannot be read."""
    records = []
    for run in store.run_names():
        record = store.read_run(run)
        if record is not None:
            records.append(record)
        elif run_folder(store, run).exists("run.json"):
            raise UsageError(
                f"gc: the record of run {run} is another user's: what it needs is not known: run this as its owner, or "
                "as one who may read it"
            )
    return sorted(records, key=lambda record: record.started, reverse=True)


def needs_of(records: Collection[RunRecord]) -> set[str]:
    """Return the artifacts that runs need, as <stage>/<fingerprint>."""
    return {f"{stage}/{entry.fingerprint}" for record in records for stage, entry in record.plan.items()}


def run_folder(store: Store, run: str) -> Artifact:
    """Return the folder of a run's record and logs."""
    return Artifact(f"{store.uri}/runs/{run}", "runs", run)


def identities_of(records: Collection[RunRecord], store: Store) -> str:
    """Return all that may name models by their content, as one text: plans, and the T5 of a prior that was reused."""
    found: list[object] = [entry.identity for record in records for entry in record.plan.values()]
    priors = {record.plan[_PRIOR].fingerprint for record in records if _PRIOR in record.plan}
    for prior in (store.artifact(_PRIOR, fingerprint) for fingerprint in sorted(priors)):
        if prior.is_complete:
            found.append(load_model_config(prior, "prior"))
    return json.dumps(found)


def _forgotten(store: Store, records: Sequence[RunRecord], choice: Choice) -> set[str]:
    found: dict[str, RunRecord] = {}
    for name in choice.runs:
        matching = [record for record in records if record.run == name]
        matching = matching or [record for record in records if record.run.startswith(name)]
        if len(matching) != 1:
            known = ", ".join(record.run for record in (matching or records)[:_MOST_NAMED]) or "none"
            raise UsageError(f"gc: --forget {name}: is the beginning of {len(matching)} runs ({known}): give one's id")
        found[matching[0].run] = matching[0]
    if choice.keep_last is not None:
        found |= {record.run: record for record in records[choice.keep_last :]}
    if choice.older_than is not None:
        since = (datetime.now(UTC) - choice.older_than).isoformat()
        found |= {record.run: record for record in records if record.started < since}
    alive = {run for run, record in found.items() if life_of(record, store).status not in OVER}
    if named := [run for run in sorted(alive) if any(run.startswith(name) for name in choice.runs)]:
        raise UsageError(f"gc: --forget {named[0]}: the run is not over: end it first")
    return set(found) - alive


def name_of(artifact: Artifact) -> str:
    """Return an artifact's name among the needs of runs."""
    return f"{artifact.stage}/{artifact.fingerprint}"


def _item(folder: Artifact, what: str, why: str) -> Item:
    return Item(folder, what, sum(folder.sizes().values()), why)
