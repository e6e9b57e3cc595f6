"""What of the store the artifacts of a plan have grown from: artifacts of the same recipe, of earlier shards."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.growth import Grown, run_of
from pipeline.store import Store
from stages.contract.documents import Manifest
from stages.contract.errors import ArtifactError
from stages.contract.recipes import SHARDS, Recipe, read_recipe
from stages.contract.stage import StageConfig
from stages.filter_samples.config import FilterSamplesConfig
from stages.storage.artifact import Artifact


@dataclass(frozen=True)
class Lineage:
    """The earlier artifacts of each stage, and how many generations ago their shards were the newest (from 0)."""

    store: Store
    grown: Grown
    earlier: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, grown: Grown, store: Store) -> "Lineage":
        """Begin with the shards: those that the planned ones begin with, what these began with, and so on."""
        generations: dict[str, int] = {}
        last: str | None = grown.base
        while last is not None and last not in generations:
            generations[last] = len(generations)
            recipe = read_recipe(store.artifact(SHARDS, last))
            last = None if recipe is None else recipe.grown_from
        return cls(store, grown, {SHARDS: generations})

    def add(self, section: StageConfig, own: Recipe, inputs: Iterable[str]) -> None:
        """Find the earlier artifacts of a stage: of its recipe, and made from earlier artifacts of what it reads."""
        growing = [name for name in section.per_shard_inputs if name in inputs]
        if not section.grows or not growing or section.stage == SHARDS:
            return
        found = list[tuple[int, str]]()
        for artifact in self.store.artifacts([section.stage]):
            recipe = read_recipe(artifact)
            if recipe is None or recipe.recipe != own.recipe:
                continue
            made_from = _inputs_of(artifact, recipe)
            generations = [self.earlier.get(name, {}).get(made_from.get(name, "")) for name in growing]
            known = [generation for generation in generations if generation is not None]
            if len(known) == len(growing):
                found.append((max(known), artifact.fingerprint))
        self.earlier[section.stage] = {fingerprint: generation for generation, fingerprint in sorted(found)}

    def newest(self, stage: str) -> str | None:
        """Return the earlier artifact of a stage whose shards are the newest."""
        return next(iter(self.earlier.get(stage, ())), None)

    def words(self, section: StageConfig) -> str:
        """Return what a stage takes of its earlier artifact; "" where there is none."""
        if section.stage == SHARDS:
            return self.grown.words
        if (earlier := self.newest(section.stage)) is None:
            return ""
        run, record = run_of(earlier, section.stage, self.store), self.grown.record
        reaches_back = isinstance(section, FilterSamplesConfig) and section.compares_all
        most = "at most " if reaches_back and record.remade_shards else ""
        return f"{most}{record.reused_shards:,} of {record.num_shards:,} shards reused from {run}"


def _inputs_of(artifact: Artifact, recipe: Recipe) -> Mapping[str, str]:
    """Return what an artifact is made from, by stage; of one that is not complete, its shards alone are known."""
    shards = {} if recipe.shards is None else {SHARDS: recipe.shards}
    try:
        return {**shards, **Manifest.of(artifact).inputs} if artifact.is_complete else shards
    except ArtifactError:
        return shards
