"""Which artifact of the store the shards of a source that has changed begin with, and what a plan says of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.fingerprints import fingerprint_of
from pipeline.store import Store
from stages.contract.errors import ArtifactError, StageError
from stages.contract.recipes import read_recipe, recipe_of
from stages.download_shards.config import DownloadShardsConfig
from stages.storage.artifact import Artifact
from stages.training.config import LoopConfig
from stages.training.continuation import find_checkpoint

if TYPE_CHECKING:
    from stages.download_shards.growth import GrowthRecord

_UNITS = "units/*.json"


@dataclass(frozen=True)
class Grown:
    """How shards begin with those of another artifact."""

    base: str
    record: "GrowthRecord"
    run: str

    @property
    def words(self) -> str:
        """What is taken and what is made, and why."""
        return self.record.describe(self.run)


def grow(
    section: DownloadShardsConfig, identity: Mapping[str, Any], store: Store
) -> tuple[DownloadShardsConfig, Mapping[str, Any], Grown | None]:
    """Return the section with the artifact that it begins with, its identity, and what is taken from there.

    Where the store has shards of this very source, complete or begun, these are it. Else it is the complete artifact of
    the same recipe that has most entries in common; the source's entries are read for that.
    """
    if section.grown_from is not None or not section.can_grow:
        return section, identity, None
    own = recipe_of(section, identity, {})
    found = [(one, recipe) for one in store.artifacts([section.stage]) if (recipe := read_recipe(one)) is not None]
    alike = [(one, recipe) for one, recipe in found if recipe.recipe == own.recipe]
    same = [(one, recipe) for one, recipe in alike if recipe.source == own.source]
    if same:
        own_one, recipe = max(same, key=lambda pair: (pair[0].is_complete, len(pair[0].glob(_UNITS)), pair[0].uri))
        base = recipe.grown_from
        if base is None:
            return section, identity, None
        if own_one.is_complete:
            return *_with_base(section, identity, base), read_grown(own_one, store)
        candidates = [one for one, _ in alike if one.fingerprint == base and one.is_complete]
        # Where what it began with is gone, it is made from nothing.
        grown = _compare(section, candidates, store) if candidates else None
        return *_with_base(section, identity, None if grown is None else base), grown
    complete = [one for one, _ in alike if one.is_complete]
    grown = _compare(section, complete, store) if complete else None
    return *_with_base(section, identity, None if grown is None else grown.base), grown


def _with_base(
    section: DownloadShardsConfig, identity: Mapping[str, Any], base: str | None
) -> tuple[DownloadShardsConfig, Mapping[str, Any]]:
    if base is None:
        return section, identity
    return section.model_copy(update={"grown_from": base}), {**identity, "grown_from": base}


def _compare(section: DownloadShardsConfig, candidates: Iterable[Artifact], store: Store) -> Grown | None:
    """Return what can be taken from the artifact with most entries in common; None: none has any."""
    from stages.download_shards.growth import GrowthRecord, divide, read_digests
    from stages.download_shards.sources.registry import make_source
    from stages.formats.shards import ShardRecord

    best: tuple[int, str, GrowthRecord] | None = None
    try:
        with make_source(section).parts() as parts:
            growth = parts.growth
            for artifact in candidates if growth is not None else ():
                assert growth is not None
                earlier = read_digests(artifact, sorted(ShardRecord.done(artifact)))
                record = GrowthRecord.of_shards(
                    artifact.fingerprint, divide(growth.digests, earlier, growth.rows_per_shard), earlier
                )
                kept = len(growth.digests) - record.new_entries
                if kept and (best is None or (kept, artifact.fingerprint) > best[:2]):
                    best = kept, artifact.fingerprint, record
    except StageError:
        return None  # the source cannot be read: the run says so
    if best is None:
        return None
    _, base, record = best
    return Grown(base, record, run_of(base, section.stage, store))


def read_grown(artifact: Artifact, store: Store) -> Grown | None:
    """Return what an artifact has taken when it was made; None: nothing, or its record of that cannot be read."""
    from stages.download_shards.growth import GrowthRecord

    try:
        record = GrowthRecord.of(artifact) if artifact.exists(GrowthRecord.file) else None
    except ArtifactError:
        return None
    return (
        None if record is None else Grown(record.grown_from, record, run_of(record.grown_from, artifact.stage, store))
    )


def run_of(fingerprint: str, stage: str, store: Store) -> str:
    """Return the latest run that has an artifact of this fingerprint, or the artifact itself where none has."""
    records = (one for one in store.runs() if (planned := one.plan.get(stage)) and planned.fingerprint == fingerprint)
    found = next(records, None)
    return f"artifact {fingerprint}" if found is None else found.run


def continued_words(section: LoopConfig, identity: Mapping[str, Any], inputs: Mapping[str, str], store: Store) -> str:
    """Return from which checkpoint of which run a training goes on, and why; "" where it begins by itself."""
    own, fingerprint = recipe_of(section, identity, inputs), fingerprint_of(section, identity, inputs)
    earlier = [
        one
        for one in store.artifacts([section.stage])
        if one.fingerprint != fingerprint and (recipe := read_recipe(one)) and recipe.recipe == own.recipe
    ]
    if (found := find_checkpoint(earlier, section.all_training)) is None:
        return ""
    artifact, step = found
    change = "raised" if artifact.is_complete else "changed"
    return (
        f"continues {run_of(artifact.fingerprint, section.stage, store)} from step {step:,}, because only "
        f"training.num_steps was {change}"
    )
