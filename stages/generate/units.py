"""The units of work of generation: consecutive prompts of one set."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from stages.formats.generated_images import SHARD_IMAGES, GeneratedUnit
from stages.generate.config import GenerateConfig, SetName
from stages.generate.prompts import Prompt

CHUNK = 64
"""Prompts that are sampled together, in batches of at most this size; a unit is as large, or several times."""


@dataclass(frozen=True)
class PromptUnit:
    """Prompts, the first of which has the number ``first``; their images become files, or a webdataset shard."""

    set: SetName
    first: int
    prompts: Sequence[Prompt]
    in_shards: bool
    of_any_prior: bool
    """Whether the images are the same whatever the prior."""

    @property
    def made_from(self) -> str:
        """What the images depend on beside the recipe; "": on the prior, too."""
        if not self.of_any_prior:
            return ""
        content = [self.set, self.first, [asdict(prompt) for prompt in self.prompts]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """Name of the unit."""
        return GeneratedUnit(self.set, self.first, len(self.prompts)).name


def divide(config: GenerateConfig, prompts: Sequence[Prompt]) -> list[PromptUnit]:
    """Return the units of all sets, in the order of the sets and prompts."""
    in_shards = len(prompts) * len(config.chosen_sets) > config.max_files
    size = SHARD_IMAGES if in_shards else CHUNK
    return [
        PromptUnit(name, first, prompts[first : first + size], in_shards, name in config.sets_of_any_prior)
        for name in config.chosen_sets
        for first in range(0, len(prompts), size)
    ]
