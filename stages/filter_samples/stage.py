"""Filter every shard on its own, then find near-duplicates among what passed; write rows to keep and removed keys."""

import functools
from collections.abc import Mapping, Sequence

from stages.contract.documents import Totals
from stages.contract.errors import InputFault
from stages.contract.events import Progress
from stages.contract.stage import StageContext, StageSummary
from stages.filter_samples.config import FilterSamplesConfig
from stages.filter_samples.contents import contents
from stages.filter_samples.reuse import make_taking_scorer
from stages.filter_samples.worker import make_remover
from stages.formats.embeddings.reader import shard_rows
from stages.formats.filtered import SCORES, FilterRecord, scores_are_of
from stages.formats.per_shard import table_name
from stages.storage.artifact import Artifact, Output
from stages.storage.takeover import contents_of_units
from stages.streaming.reuse import Reused, made_units
from stages.streaming.runner import UnitList, UnitRunner, map_and_report
from stages.streaming.staleness import Contents, without_stale


def run(
    config: FilterSamplesConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Write for each shard which rows are kept (kept/), which keys were removed and why (removed/), and all scores."""
    embeddings = inputs["embed_clip"]
    names = list(shard_rows(embeddings))
    present, own = contents(config, inputs), contents_of_units(embeddings)
    records = without_stale(FilterRecord.done(output), present, output)
    resources = context.resources.for_shards()
    units = UnitList(names)
    units.write_plan(output)
    made = made_units(FilterRecord, context.earlier)
    to_score = _names_to_score(names, records, own, output)
    scored, reused = len(names) - len(to_score), 0

    def progress() -> Progress:
        return Progress(scored + len(records), 2 * len(names), "passes over shards", reused=reused)

    make = functools.partial(make_taking_scorer, config, embeddings, output, contents=present, made=made, own=own)
    for found in map_and_report(context, make, to_score, resources, progress):
        scored += 1
        reused += isinstance(found, Reused)
    runner = UnitRunner(
        output=output,
        units=units,
        kind=FilterRecord,
        records=FilterRecord.done(output),  # with those that were taken over
        make_worker=functools.partial(make_remover, config, embeddings, output, present),
        resources=resources,
        passes_before=1,
        reused_before=2 * reused,  # what was taken over needs neither pass
    )
    records = runner.run(context)
    return _summarise(records, reused=sum(one.made_from in made for one in records.values()))


def _names_to_score(
    names: Sequence[str], records: Mapping[str, FilterRecord], own: Contents, output: Output
) -> list[str]:
    """Return the shards without scores of their present embeddings; the files of others are removed."""
    to_score = [name for name in names if name not in records and not scores_are_of(output, name, own.get(name))]
    for name in to_score:
        output.remove(table_name(SCORES, name))
    return to_score


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
