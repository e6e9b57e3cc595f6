"""Find what no kept run needs: artifacts, models from outside, and runs that are to be forgotten.

A run needs the artifacts of its plan, finished or not, what these begin with (:mod:`pipeline.gc.needs`), and the models
that the plan names by their content. Runs that are not over are always kept, and the record of a run whose weights a
kept one begins with. Where the record of a run cannot be read, what it needs is not known, and nothing is garbage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from pipeline.config.schema import STAGES
from pipeline.errors import UsageError
from pipeline.gc.needs import Beginning, begun_with, identities_of, needs_of, planned_by
from pipeline.heartbeat import life_of
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.formats.stored_models import model_in
from stages.storage.artifact import Artifact

OVER = ("done", "failed", "interrupted", "lost")
_MOST_NAMED = 3


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
    bare: Mapping[str, RunRecord] = field(default_factory=dict)
    """Records, as they were found, of forgotten runs of which only that and the weights stay that others begin with."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why these stay, by run."""

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(item.size for item in self.items)


def find_garbage(store: Store, choice: Choice) -> Garbage:
    """Return what can be deleted.

    Raises:
        UsageError: no run has a name of the choice, or one that is not over has, or one with whose weights a kept run
            begins; or a record cannot be read.
    """
    records = read_records(store)
    found = {record.run: record for record in records}
    chosen = _forgotten(store, records, choice)
    kept = [record for record in records if record.run not in chosen]
    begun = begun_with(kept, found)
    reasons = {run: _why_bare(run, begun[run], choice) for run in sorted(begun.keys() & chosen)}
    bare = {run: found[run] for run in reasons}
    forgotten = chosen - bare.keys()
    last = planned_by(found[run] for run in chosen)
    needed, named = needs_of(kept, store, bare.values()), identities_of(kept, store)
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
    items += [
        replace(_item(run_folder(store, run), "run", "to be forgotten"), record=found[run]) for run in sorted(forgotten)
    ]
    return Garbage(items, len(kept) + len(bare), sorted(forgotten), bare, reasons)


def read_records(store: Store) -> list[RunRecord]:
    """Return the records of all runs, the latest first; UsageError: one cannot be read."""
    records = []
    for run in store.run_names():
        record = store.read_run(run)
        if record is not None:
            records.append(record)
        elif run_folder(store, run).exists("run.json"):
            raise UsageError(
                f"gc: the record of run {run} is another user's, or no file: what it needs is not known: run this as "
                "its owner, or as one who may read it"
            )
    return sorted(records, key=lambda record: record.started, reverse=True)


def run_folder(store: Store, run: str) -> Artifact:
    """Return the folder of a run's record and logs."""
    return Artifact(f"{store.uri}/runs/{run}", "runs", run)


def _forgotten(store: Store, records: Sequence[RunRecord], choice: Choice) -> set[str]:
    found: dict[str, RunRecord] = {}
    if not all(name.strip() for name in choice.runs):  # such as "$RUN" of a variable that is not set
        raise UsageError("gc: --forget: found an empty name: expected a run's id or its beginning: give one's id")
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


def _why_bare(run: str, beginnings: Sequence[Beginning], choice: Choice) -> str:
    """Return why a forgotten run's record stays; UsageError: that run itself is to go."""
    stage, by = beginnings[0]
    if any(run.startswith(name) for name in choice.runs):
        raise UsageError(
            f"gc: --forget {run}: run {by}, which is kept, begins with its weights ({stage}.init_from): forget "
            "both, or neither"
        )
    stages = ", ".join(sorted({one.stage for one in beginnings}))
    return f"its record and its {stages} stay, as run {by} begins with its weights ({stage}.init_from)"


def name_of(artifact: Artifact) -> str:
    """Return an artifact's name among the needs of runs."""
    return f"{artifact.stage}/{artifact.fingerprint}"


def _item(folder: Artifact, what: str, why: str) -> Item:
    return Item(folder, what, sum(folder.sizes().values()), why)
