"""Judge every shard by itself, then look for near duplicates among what passed; keep row numbers, tell removed keys."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from cluster.mapping import WorkerResources
from stages.contract.errors import InputFault
from stages.contract.events import Progress
from stages.contract.stage import StageContext, StageSummary
from stages.filter_samples.config import FilterSamplesConfig, HeadFilter
from stages.filter_samples.duplicates import NearDuplicates, ShardUnits, find_near_duplicates, unit_rows
from stages.filter_samples.heads import answers, load_head
from stages.formats.embeddings import (
    clip_identity,
    further_captions,
    load_image_rows,
    load_keys,
    open_text_rows,
    shard_rows,
)
from stages.storage.artifact import Artifact, Output

PLAN = "plan.json"
LOW_SCORE, NEAR_DUPLICATE = "low_clip_score", "near_duplicate"
Record = dict[str, Any]
Values = Float[np.ndarray, " rows"]

_REMOVED = pa.schema(
    [("key", pa.string()), ("cause", pa.string()), ("value", pa.float64()), ("duplicate_of", pa.string())]
)


def run(
    config: FilterSamplesConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Write for each shard which rows are kept (kept/), which keys were removed and why (removed/), and all scores.

    Raises:
        InputFault: a head cannot be used, or nothing would be left.
    """
    embeddings = inputs["embed_clip"]
    names = list(shard_rows(embeddings))
    output.write_json(PLAN, {"units": len(names)})
    records = output.done_units()
    resources = WorkerResources(context.resources.num_workers, context.resources.cpus_per_worker)
    to_evaluate = [name for name in names if not output.exists(_scores(name))]
    evaluated = len(names) - len(to_evaluate)

    def report() -> None:
        context.emit(Progress(evaluated + len(records), 2 * len(names), "passes over shards"))

    report()
    for _ in context.map_shards(functools.partial(_make_evaluator, config, embeddings, output), to_evaluate, resources):
        evaluated += 1
        report()
    to_do = [name for name in names if name not in records]
    make = functools.partial(_make_keeper, config, embeddings, output)
    for name, record in context.map_shards(make, to_do, resources):
        records[name] = record
        report()
    return _summarise(records)


def _scores(name: str) -> str:
    return f"scores/scores_{name}.parquet"


# ---- by itself


def _make_evaluator(config: FilterSamplesConfig, embeddings: Artifact, output: Output) -> Callable[[str], str]:
    blocks = [int(clip["embed_dim"]) for clip in clip_identity(embeddings)]
    heads = [(head, load_head(head, _width(head, blocks))) for head in config.heads]
    ends = np.cumsum([0, *blocks])

    def evaluate(name: str) -> str:
        image = load_image_rows(embeddings, name)
        columns: dict[str, Values] = {}
        causes = np.full(len(image), None, dtype=object)
        if config.clip_score is not None:
            columns["clip_score"] = caption_scores(embeddings, name, image, blocks)
            causes[columns["clip_score"] < config.clip_score.minimum] = LOW_SCORE
        for head, layers in heads:
            found = answers(head, layers, image[:, ends[head.model] : ends[head.model + 1]])
            columns[head.name] = found
            low, high = (limit if limit is not None else found for limit in (head.minimum, head.maximum))
            outside = ~((found >= low) & (found <= high))
            causes[outside & (causes == None)] = head.name  # noqa: E711  elementwise
        table = {"key": load_keys(embeddings, name), **columns, "cause": pa.array(causes, pa.string())}
        with output.writing(_scores(name)) as path:
            pq.write_table(pa.table(table), path)
        return name

    return evaluate


def _width(head: HeadFilter, blocks: Sequence[int]) -> int:
    if head.model >= len(blocks):
        raise InputFault(
            f"filter_samples.heads ({head.name}).model: found {head.model}, but there are {len(blocks)} CLIP models: "
            f"allowed are 0 to {len(blocks) - 1}"
        )
    return blocks[head.model]


def caption_scores(
    embeddings: Artifact, shard: str, image: Float[np.ndarray, "rows embed"], blocks: Sequence[int]
) -> Values:
    """Return each image's cosine to that of its captions which fits best; NaN where it has none."""
    units = unit_rows(image, list(blocks))
    text = np.asarray(open_text_rows(embeddings, shard), dtype=np.float32)
    scores: Values = (units * unit_rows(text, list(blocks))).sum(axis=1)
    owners, further = further_captions(embeddings, shard, image.shape[1])
    cosines = (units[owners] * unit_rows(np.asarray(further, dtype=np.float32), list(blocks))).sum(axis=1)
    np.fmax.at(scores, owners, cosines)
    return scores


# ---- among the others


def _make_keeper(
    config: FilterSamplesConfig, embeddings: Artifact, output: Output
) -> Callable[[str], tuple[str, Record]]:
    names = list(shard_rows(embeddings))
    blocks = [int(clip["embed_dim"]) for clip in clip_identity(embeddings)]

    def keep(name: str) -> tuple[str, Record]:
        table = pq.read_table(output.local(_scores(name)))
        causes = np.array(table["cause"].to_pylist(), dtype=object)
        near_duplicates = NearDuplicates.none(len(causes))
        if config.near_duplicates is not None:
            own = _compared(embeddings, output, names, names.index(name), blocks)
            first = 0 if config.near_duplicates.within == "all" else own.number
            for other in range(first, own.number + 1):
                earlier = own if other == own.number else _compared(embeddings, output, names, other, blocks)
                find_near_duplicates(
                    near_duplicates, own, earlier, minimum=config.near_duplicates.minimum, block_rows=config.block_rows
                )
            causes[~near_duplicates.is_open] = NEAR_DUPLICATE
        return name, _write(
            name, table, causes, _originals(near_duplicates, names, embeddings), near_duplicates, output, embeddings
        )

    return keep


def _compared(embeddings: Artifact, output: Output, names: Sequence[str], number: int, blocks: list[int]) -> ShardUnits:
    """Read a shard, and which of its rows passed the other filters."""
    causes = pq.read_table(output.local(_scores(names[number])), columns=["cause"])["cause"]
    units = unit_rows(load_image_rows(embeddings, names[number]), blocks)
    return ShardUnits(number, units, np.flatnonzero(causes.is_null().to_numpy()))


def _originals(near_duplicates: NearDuplicates, names: Sequence[str], embeddings: Artifact) -> dict[int, str]:
    """Return the key of each twin, by row; the keys of one shard are held at a time."""
    found: dict[int, str] = {}
    for shard in np.unique(near_duplicates.shard[~near_duplicates.is_open]):
        keys = load_keys(embeddings, names[shard])
        found |= {int(row): keys[near_duplicates.row[row]] for row in np.flatnonzero(near_duplicates.shard == shard)}
    return found


def _write(
    name: str,
    table: pa.Table,
    causes: np.ndarray,
    originals: Mapping[int, str],
    near_duplicates: NearDuplicates,
    output: Output,
    embeddings: Artifact,
) -> Record:
    removed = [row for row, cause in enumerate(causes) if cause is not None]
    kept = np.array([row for row, cause in enumerate(causes) if cause is None], dtype=np.int64)
    values = {LOW_SCORE: "clip_score", NEAR_DUPLICATE: None}
    keys = table["key"].to_pylist()
    rows = [
        {
            "key": keys[row],
            "cause": causes[row],
            "value": float(near_duplicates.cosine[row]) if causes[row] == NEAR_DUPLICATE
            else table[values.get(causes[row], causes[row])][row].as_py(),
            "duplicate_of": originals.get(row),
        }
        for row in removed
    ]  # fmt: skip
    with output.writing(f"kept/kept_{name}.npy") as path, path.open("wb") as file:
        np.save(file, kept)
    with output.writing(f"removed/removed_{name}.parquet") as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=_REMOVED), path)
    captioned = pq.read_table(embeddings.local(f"metadata/metadata_{name}.parquet"), columns=["has_caption"])
    record: Record = {
        "rows": len(kept),
        "captioned": int(captioned["has_caption"].to_numpy()[kept].sum()),
        "removed": dict(sorted(collections.Counter(str(causes[row]) for row in removed).items())),
    }
    output.finish_unit(name, record)
    return record


def _summarise(records: Mapping[str, Record]) -> StageSummary:
    totals: collections.Counter[str] = collections.Counter()
    for record in records.values():
        totals.update({"images": record["rows"], "captioned": record["captioned"]})
        totals.update({f"removed_{cause}": count for cause, count in record["removed"].items()})
    removed = sum(count for name, count in totals.items() if name.startswith("removed_"))
    if totals["images"] == 0:
        raise InputFault(
            f"filter_samples: nothing is left of {removed} images ({dict(totals)}): allowed is to keep at least one: "
            "lower the limits; the scores of all images are in scores/"
        )
    kept = totals["images"] / (totals["images"] + removed)
    return StageSummary(items=totals["images"] + removed, counts=dict(totals), metrics={"kept": kept})
