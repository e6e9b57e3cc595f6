"""Shards that an earlier artifact of the same recipe has filtered: taken over instead of filtered again."""

import logging
from collections.abc import Callable

from cluster.item_progress import item_is_given_again
from stages.contract.errors import ArtifactError
from stages.filter_samples.config import FilterSamplesConfig
from stages.filter_samples.worker import make_scorer
from stages.formats.filtered import SCORES, FilterRecord
from stages.formats.per_shard import has_table
from stages.storage.artifact import Artifact, Output, unit_record
from stages.storage.takeover import take_unit
from stages.streaming.reuse import MadeUnits, Reused
from stages.streaming.staleness import Contents

_log = logging.getLogger(__name__)


def make_taking_scorer(
    config: FilterSamplesConfig,
    embeddings: Artifact,
    output: Output,
    *,
    contents: Contents,
    made: MadeUnits,
    own: Contents,
) -> Callable[[str], str | Reused[str]]:
    """Return the function that takes the result of a shard of a name over where it is there, or else scores it.

    ``contents`` identifies what a result is made from, ``own`` the shard's embeddings alone.
    """
    score = make_scorer(config, embeddings, output, own)

    def score_or_take(name: str) -> str | Reused[str]:
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
        return Reused(name)

    return score_or_take
