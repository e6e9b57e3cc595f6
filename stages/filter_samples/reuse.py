"""Shards that an earlier artifact of the same recipe has filtered: taken over instead of filtered again."""

import hashlib
import logging
from collections.abc import Callable, Mapping

from cluster.item_progress import item_is_given_again
from stages.contract.errors import ArtifactError
from stages.filter_samples.config import FilterSamplesConfig
from stages.filter_samples.worker import make_scorer
from stages.formats.clips import read_clips
from stages.formats.embeddings.reader import shard_rows
from stages.formats.filtered import SCORES, FilterRecord
from stages.formats.per_shard import has_table
from stages.storage.artifact import Artifact, Output, unit_record
from stages.storage.takeover import contents_of_units, take_unit
from stages.streaming.reuse import MadeUnits

_log = logging.getLogger(__name__)


def made_from(config: FilterSamplesConfig, embeddings: Artifact) -> dict[str, str]:
    """Return what each shard's result depends on, where that is known: its embeddings.

    Where near-duplicates of all images are looked for, also those of all shards before it, in their order.
    """
    contents, found = contents_of_units(embeddings), {}
    first = so_far = str(read_clips(embeddings).block_dims)
    for name in shard_rows(embeddings):
        if name not in contents:
            if config.compares_all:
                break
            continue
        before = so_far if config.compares_all else first
        found[name] = so_far = hashlib.sha256(f"{before} {contents[name]}".encode()).hexdigest()[:32]
    return found


def make_taking_scorer(
    config: FilterSamplesConfig, embeddings: Artifact, output: Output, *, contents: Mapping[str, str], made: MadeUnits
) -> Callable[[str], str]:
    """Return the function that takes the result of a shard of a name over where it is there, or else scores it."""
    score = make_scorer(config, embeddings, output)

    def score_or_take(name: str) -> str:
        if item_is_given_again() and has_table(output, SCORES, name):
            return name
        content = contents.get(name)
        if content is None or content not in made:
            return score(name)
        artifact, unit = made[content]
        try:
            with output.collecting():
                record = FilterRecord.parse(take_unit(artifact, unit, output, name), artifact, unit_record(unit))
                record.finish(output, name)
        except ArtifactError as error:
            _log.warning("%s: shard %s is filtered again", str(error).partition(": expected")[0], name)
            return score(name)
        return name

    return score_or_take
