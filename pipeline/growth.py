"""Which artifact of the store the shards of a source that has changed begin with, and what a plan says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Begun:
    """A section that knows which artifact it begins with, if any."""

    section: DownloadShardsConfig
    identity: Mapping[str, Any]
    grown: Grown | None = None
    why_not: str = ""
    """Why no shard of the store is taken over, where it has some of the same recipe."""

    def on(self, base: str | None, grown: Grown | None = None) -> "Begun":
        """Return the section that begins with the artifact of a fingerprint."""
        if base is None:
            return self
        section = self.section.model_copy(update={"grown_from": base})
        return Begun(section, {**self.identity, "grown_from": base}, grown)


def grow(section: DownloadShardsConfig, identity: Mapping[str, Any], store: Store) -> Begun:
    """Return the section with the artifact that it begins with, its identity, and what is taken from there.

    Where the store has shards of this very source, complete or begun, these are it. Else it is the complete artifact of
    the same recipe that has most entries in common; the source's entries are read for that.
    """
    begun = Begun(section, identity)
    if section.grown_from is not None:
        return begun
    own = recipe_of(section, identity, {})
    found = [(one, recipe) for one in store.artifacts([section.stage]) if (recipe := read_recipe(one)) is not None]
    alike = [(one, recipe) for one, recipe in found if recipe.recipe == own.recipe]
    same = [(one, recipe) for one, recipe in alike if recipe.source == own.source]
    if section.why_not_grow:
        return replace(begun, why_not=section.why_not_grow if len(alike) > len(same) else "")
    if not same:
        return _begin(begun, [one for one, _ in alike if one.is_complete], store)
    own_one, recipe = max(same, key=lambda pair: (pair[0].is_complete, len(pair[0].glob(_UNITS)), pair[0].uri))
    if recipe.grown_from is None or own_one.is_complete:
        return begun.on(recipe.grown_from, read_grown(own_one, store))
    # Where what it began with is gone, it is made from nothing.
    bases = [one for one, _ in alike if one.fingerprint == recipe.grown_from and one.is_complete]
    return _begin(begun, bases, store)


def _begin(begun: Begun, candidates: Sequence[Artifact], store: Store) -> Begun:
    """Begin with the artifact that has most entries in common with the source."""
    from stages.download_shards.growth import MOST_ENTRIES, GrowthRecord, divide_from
    from stages.download_shards.sources.registry import make_source

    section, best = begun.section, list[tuple[int, str, GrowthRecord]]()
    if not candidates:
        return begun
    try:
        with make_source(section).parts() as parts:
            if (growth := parts.growth) is None:
                return replace(begun, why_not=f"more than {MOST_ENTRIES:,} entries are not compared")
            for artifact in candidates:
                _, record = divide_from(
                    artifact,
                    growth.digests,
                    growth.rows_per_shard,
                    drops_repeats=section.drop_duplicate_images,
                    earlier_digests=growth.earlier_digests,
                )
                best.append((record.kept_entries, artifact.fingerprint, record))
    except StageError:
        return begun  # the source cannot be read: the run says so
    kept, base, record = max(best, key=lambda one: one[:2])
    if not kept:
        return replace(begun, why_not="no entry is the same as one there")
    return begun.on(base, Grown(base, record, run_of(base, section.stage, store)))


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
