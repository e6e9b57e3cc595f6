"""What runs need of a store, beyond the artifacts of their plans.

- A stage that is not finished takes units or checkpoints from artifacts of the same recipe, and begins with the
  artifact that its identity names (``grown_from``). Without that one, the same experiment is another run.
- A training begins with the weights of a run or an address that its section names. They are read whenever it is
  planned, also after it is done.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.config.schema import STAGES, RunConfig
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.errors import ArtifactError
from stages.contract.recipes import SHARDS, read_recipe, recipe_of
from stages.contract.secrets import redact_addresses
from stages.formats.model_folders import load_model_config
from stages.training.init_config import names_run

_PRIOR = "train_prior"


class Beginning(NamedTuple):
    """A stage of a run, and the run whose stage begins with its weights."""

    stage: str
    by: str


def planned_by(records: Iterable[RunRecord]) -> set[str]:
    """Return the artifacts of the plans of runs, as <stage>/<fingerprint>."""
    return {f"{stage}/{entry.fingerprint}" for record in records for stage, entry in record.plan.items()}


def needs_of(records: Collection[RunRecord], store: Store, forgotten: Iterable[RunRecord] = ()) -> set[str]:
    """Return the artifacts that runs need, as <stage>/<fingerprint>; of ``forgotten`` ones, what these begin with."""
    known = {record.run: record for record in (*forgotten, *records)}
    needed = planned_by(records)
    for record in records:
        needed |= {*_addressed(record, store), *_grown_from(record, store), *_of_same_recipe(record, store)}
    for run, beginnings in begun_with(records, known).items():
        plan = known[run].plan
        needed |= {f"{one.stage}/{plan[one.stage].fingerprint}" for one in beginnings if one.stage in plan}
    return needed


def begun_with(records: Iterable[RunRecord], known: Mapping[str, RunRecord]) -> dict[str, list[Beginning]]:
    """Return the runs that ``init_from`` of these runs names, of the runs named there, and so on."""
    found: dict[str, list[Beginning]] = {}
    waiting = list(records)
    seen = {record.run for record in waiting}
    while waiting:
        record = waiting.pop()
        for stage in STAGES:
            section = record.config.get(stage)
            run = section.get("init_from") if isinstance(section, dict) else None
            if not isinstance(run, str) or not names_run(run) or run not in known:
                continue
            found.setdefault(run, []).append(Beginning(stage, record.run))
            if run not in seen:
                seen.add(run)
                waiting.append(known[run])
    return found


def identities_of(records: Collection[RunRecord], store: Store) -> str:
    """Return all that may name models by their content, as one text: plans, and the T5 of a prior that was reused."""
    found: list[object] = [entry.identity for record in records for entry in record.plan.values()]
    priors = {record.plan[_PRIOR].fingerprint for record in records if _PRIOR in record.plan}
    for prior in (store.artifact(_PRIOR, fingerprint) for fingerprint in sorted(priors)):
        if prior.is_complete:
            found.append(load_model_config(prior, "prior"))
    return json.dumps(found)


def _addressed(record: RunRecord, store: Store) -> Iterator[str]:
    """Yield the artifacts of this store that a configuration names by an address in them."""
    root = f"{redact_addresses(store.uri)}/artifacts/"  # as a record keeps it
    for text in _texts(record.config):
        address = text
        if store.local_root is not None and text.startswith("/"):
            with contextlib.suppress(ValueError, OSError):  # no path
                address = os.path.realpath(text)
        stage, _, below = address.removeprefix(root).partition("/")
        if address.startswith(root) and below:
            yield f"{stage}/{below.partition('/')[0]}"


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for one in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(one)


def _grown_from(record: RunRecord, store: Store) -> Iterator[str]:
    """Yield what unfinished stages begin with, and all by which planning finds that."""
    named = {stage: entry for stage, entry in record.plan.items() if isinstance(entry.identity.get("grown_from"), str)}
    unfinished = [stage for stage, entry in named.items() if not store.artifact(stage, entry.fingerprint).is_complete]
    for stage in unfinished:
        yield from _made_from(stage, named[stage].identity["grown_from"], store)
    if unfinished and SHARDS in named:
        yield from _earlier_shards(named[SHARDS].identity["grown_from"], store)


def _made_from(stage: str, fingerprint: str, store: Store) -> Iterator[str]:
    """Yield an artifact and those that it was made from, to the first."""
    waiting, seen = [(stage, fingerprint)], set[tuple[str, str]]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        yield "/".join(one)
        artifact = store.artifact(*one)
        with contextlib.suppress(ArtifactError):  # a damaged one
            waiting += Manifest.of(artifact).inputs.items() if artifact.is_complete else ()


def _earlier_shards(fingerprint: str | None, store: Store) -> Iterator[str]:
    seen: set[str] = set()
    while fingerprint is not None and fingerprint not in seen:
        seen.add(fingerprint)
        yield f"{SHARDS}/{fingerprint}"
        recipe = read_recipe(store.artifact(SHARDS, fingerprint))
        fingerprint = None if recipe is None else recipe.grown_from


def _of_same_recipe(record: RunRecord, store: Store) -> Iterator[str]:
    """Yield the artifacts from which the unfinished stages of a run may take units, or a checkpoint."""
    if record.status == "done":
        return
    try:
        config = RunConfig.model_validate(record.config)
    except ValidationError:  # of another version, by which it cannot go on
        return
    for stage, section in config.stages().items():
        entry, inputs = record.plan.get(stage), config.inputs_of(section)
        if entry is None or not section.grows or not record.plan.keys() >= {*inputs}:
            continue
        if store.artifact(stage, entry.fingerprint).is_complete:
            continue
        own = recipe_of(section, entry.identity, {name: record.plan[name].fingerprint for name in inputs})
        for artifact in store.artifacts([stage]):
            recipe = read_recipe(artifact)
            if recipe is not None and recipe.recipe == own.recipe:
                yield f"{stage}/{artifact.fingerprint}"
