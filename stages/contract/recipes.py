"""By what a stage makes its units: artifacts of one recipe may take finished units from one another.

A recipe is what the content of a unit depends on, but for what it is made from: the configuration without its source,
the code version, and all inputs but the shards. Which unit is made from what stands in its record.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from stages.contract.documents import Document
from stages.contract.errors import ArtifactError
from stages.contract.stage import StageConfig
from stages.storage.artifact import Artifact

SHARDS = "download_shards"


class Recipe(Document):
    """What an artifact is made by; written before its first unit."""

    file: ClassVar[str] = "recipe.json"

    recipe: str
    source: str
    """Digest of the whole identity, without :attr:`grown_from`."""
    grown_from: str | None = None
    """Fingerprint of the artifact whose grouping into shards, or whose fit, this one begins with."""
    shards: str | None = None
    """Fingerprint of the shards that it is made from."""


def recipe_of(config: StageConfig, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> Recipe:
    """Return the recipe of an artifact, by the fingerprints of its inputs."""
    whole = {name: value for name, value in identity.items() if name != "grown_from"}
    about = {"stage": config.stage, "code_version": config.code_version}
    others = {name: fingerprint for name, fingerprint in inputs.items() if name not in config.per_shard_inputs}
    return Recipe(
        recipe=_digest(about | {"config": config.recipe_identity(whole), "inputs": others}),
        source=_digest(about | {"config": whole, "inputs": dict(inputs)}),
        grown_from=identity.get("grown_from"),
        shards=inputs.get(SHARDS),
    )


def read_recipe(artifact: Artifact) -> Recipe | None:
    """Return an artifact's recipe; None: it has none, as those of earlier versions, or it is damaged."""
    try:
        return Recipe.of(artifact) if artifact.exists(Recipe.file) else None
    except ArtifactError:
        return None


def earlier_artifacts(artifact: Artifact, recipe: Recipe) -> tuple[Artifact, ...]:
    """Return the other artifacts beside this one that are made by the same recipe."""
    return tuple(
        one for one in artifact.siblings() if (found := read_recipe(one)) is not None and found.recipe == recipe.recipe
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
