"""Filter every shard on its own, then find near-duplicates among what passed; write rows to keep and removed keys."""

import functools
from collections.abc import Mapping

from stages.contract.documents import Totals
from stages.contract.errors import InputFault
from stages.contract.events import Progress
from stages.contract.stage import StageContext, StageSummary
from stages.filter_samples.config import FilterSamplesConfig
from stages.filter_samples.reuse import made_from, make_taking_scorer
from stages.filter_samples.worker import make_remover
from stages.formats.embeddings.reader import shard_rows
from stages.formats.filtered import SCORES, FilterRecord
from stages.formats.per_shard import has_table
from stages.storage.artifact import Artifact, Output
from stages.streaming.reuse import made_units
from stages.streaming.runner import UnitList, UnitRunner, map_and_report


def run(
    config: FilterSamplesConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Write for each shard which rows are kept (kept/), which keys were removed and why (removed/), and all scores."""
    embeddings = inputs["embed_clip"]
    names = list(shard_rows(embeddings))
    records = FilterRecord.done(output)
    resources = context.resources.for_shards()
    units = UnitList(names)
    units.write_plan(output)
    contents, made = made_from(config, embeddings), made_units(FilterRecord, context.earlier)
    to_score = [name for name in names if not has_table(output, SCORES, name)]
    scored = len(names) - len(to_score)

    def progress() -> Progress:
        return Progress(scored + len(records), 2 * len(names), "passes over shards")

    make = functools.partial(make_taking_scorer, config, embeddings, output, contents=contents, made=made)
    for _ in map_and_report(context, make, to_score, resources, progress):
        scored += 1
    runner = UnitRunner(
        output=output,
        units=units,
        kind=FilterRecord,
        records=FilterRecord.done(output),  # with those that were taken over
        make_worker=functools.partial(make_remover, config, embeddings, output, contents),
        resources=resources,
        passes_before=1,
    )
    records = runner.run(context)
    return _summarise(records, reused=sum(one.made_from in made for one in records.values()))


def _summarise(records: Mapping[str, FilterRecord], *, reused: int) -> StageSummary:
    totals = Totals.of(records.values())
    removed = sum(totals.causes.values())
    if totals.images == 0:
        raise InputFault(
            f"filter_samples: nothing is left of {removed} images ({totals.named}): allowed is to keep at least one: "
            "lower the limits; the scores of all images are in scores/"
        )
    kept = totals.images / (totals.images + removed)
    counts = totals.named | ({"reused_shards": reused} if reused else {})
    return StageSummary(items=totals.images + removed, counts=counts, metrics={"kept": kept})
