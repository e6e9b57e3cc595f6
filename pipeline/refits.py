"""Which fit of the store a fit of Gaussians begins with, where the embeddings have grown."""

from collections.abc import Mapping
from typing import Any

from pipeline.growth import run_of
from pipeline.lineage import Lineage
from pipeline.store import Store
from stages.contract.errors import ArtifactError
from stages.contract.recipes import SHARDS, read_recipe, recipe_of
from stages.fit_gaussians.config import FitGaussiansConfig
from stages.storage.artifact import Artifact

MOST_GROWN = 2.0
"""As many times the embeddings of the last fit that began with a sample; of more, first means are found anew.

Means that only move from where they were find no new centres far from all of them.
"""
FEWEST_KEPT = 0.5
"""As a fraction of the entries."""


def begin_with_last_fit(
    section: FitGaussiansConfig,
    identity: Mapping[str, Any],
    inputs: Mapping[str, str],
    lineage: Lineage | None,
    store: Store,
) -> tuple[FitGaussiansConfig, Mapping[str, Any], str]:
    """Return the section with the fit that it begins with, its identity, and words for that.

    Where the store has a fit of these very embeddings, complete or begun, this is it.
    """
    if section.grown_from is not None or section.start == "new" or lineage is None:
        return section, identity, ""
    base = _known(section, identity, inputs, store)
    if base is None:
        base = lineage.newest(section.stage)
        if base is None or not _is_much_the_same(store.artifact(section.stage, base), lineage):
            return section, identity, ""
    if not base:
        return section, identity, ""
    run = run_of(base, section.stage, store)
    words = f"starts from the means of {run}, because most of the embeddings are the same"
    return section.model_copy(update={"grown_from": base}), {**identity, "grown_from": base}, words


def _known(
    section: FitGaussiansConfig, identity: Mapping[str, Any], inputs: Mapping[str, str], store: Store
) -> str | None:
    """Return with what the store's own fit of these embeddings began, "" for a sample; None: it has no such fit."""
    own, same = recipe_of(section, identity, inputs), list[tuple[bool, str]]()
    for artifact in store.artifacts([section.stage]):
        recipe = read_recipe(artifact)
        if recipe is not None and recipe.source == own.source:
            same.append((artifact.is_complete, recipe.grown_from or ""))
    if not same:
        return None
    is_complete, base = max(same)
    is_there = is_complete or (base != "" and store.artifact(section.stage, base).is_complete)
    return base if is_there else ""


def _is_much_the_same(last: Artifact, lineage: Lineage) -> bool:
    """Tell whether the means of an earlier fit are a beginning for the embeddings there are now."""
    from stages.formats.gaussians import GaussianFit

    try:
        before = GaussianFit.of(last)
        kept, ratio = _change(lineage, lineage.earlier[last.stage][last.fingerprint])
    except ArtifactError:  # damaged, or of another version
        return False
    at_first = before.embeddings_at_first or before.embeddings
    return kept >= FEWEST_KEPT and before.embeddings * ratio <= MOST_GROWN * at_first


def _change(lineage: Lineage, generation: int) -> tuple[float, float]:
    """Return which fraction of the entries is from so many generations ago, and how many times those there are now."""
    from stages.download_shards.growth import GrowthRecord

    between = [one for one, number in lineage.earlier[SHARDS].items() if number < generation]
    records = [GrowthRecord.of(lineage.store.artifact(SHARDS, one)) for one in between]
    kept = ratio = 1.0
    for record in (lineage.grown.record, *records):
        kept *= record.kept_entries / max(record.entries, 1)
        ratio *= record.entries / max(record.kept_entries + record.lost_entries, 1)
    return kept, ratio
