"""Filter one shard: first by its own rows, then by earlier rows that it repeats."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Shaped

from stages.contract.errors import FailureCause, InputFault
from stages.filter_samples.config import FilterSamplesConfig, HeadFilter
from stages.filter_samples.duplicates import NearDuplicates, ShardUnits, find_near_duplicates
from stages.filter_samples.heads import head_outputs, load_head
from stages.formats.captions import select_captioned
from stages.formats.clips import read_clips, require_one_space
from stages.formats.embeddings.reader import (
    further_captions,
    load_has_caption,
    load_image_rows,
    load_keys,
    open_text_rows,
    shard_rows,
    unit_rows,
)
from stages.formats.filtered import SCORES, FilterRecord, save_scores, write_filtered
from stages.formats.per_shard import load_table
from stages.storage.artifact import Artifact, Output
from stages.streaming.staleness import Contents

LOW_SCORE, NEAR_DUPLICATE = FailureCause.LOW_CLIP_SCORE.value, FailureCause.NEAR_DUPLICATE.value
Values = Float[np.ndarray, " rows"]
Causes = Shaped[np.ndarray, " rows"]
"""Why a row is removed; None: it is kept."""


def make_scorer(
    config: FilterSamplesConfig, embeddings: Artifact, output: Output, made_from: Contents
) -> Callable[[str], str]:
    """Return the function that scores a shard of a name by itself; ``made_from`` identifies its embeddings."""
    clips = read_clips(embeddings)
    blocks = clips.block_dims
    if config.clip_score is not None:
        require_one_space("filter_samples.clip_score", clips, "leave it out")
    heads = [(head, load_head(head, _width(head, blocks))) for head in config.heads]
    ends = np.cumsum([0, *blocks])

    def score(name: str) -> str:
        image = load_image_rows(embeddings, name)
        columns: dict[str, Values] = {}
        causes = np.full(len(image), None, dtype=object)
        if config.clip_score is not None:
            scores = caption_scores(embeddings, name, image, blocks)
            scores[~select_captioned(load_keys(embeddings, name), config.captions)] = np.nan
            columns["clip_score"] = scores
            causes[columns["clip_score"] < config.clip_score.minimum] = LOW_SCORE
        for head, layers in heads:
            found = head_outputs(head, layers, image[:, ends[head.model] : ends[head.model + 1]])
            columns[head.name] = found
            low, high = (limit if limit is not None else found for limit in (head.minimum, head.maximum))
            outside = ~((found >= low) & (found <= high))
            causes[outside & (causes == None)] = head.name  # noqa: E711  elementwise
        table = {"key": load_keys(embeddings, name), **columns, "cause": pa.array(causes, pa.string())}
        save_scores(output, name, pa.table(table), made_from.get(name, ""))
        return name

    return score


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


def make_remover(
    config: FilterSamplesConfig, embeddings: Artifact, output: Output, contents: Contents
) -> Callable[[str], FilterRecord]:
    """Return the function that decides which rows of a shard to keep, when all shards have their scores.

    ``contents`` says what each shard's result depends on (:func:`stages.filter_samples.contents`).
    """
    names = list(shard_rows(embeddings))
    blocks = read_clips(embeddings).block_dims

    def remove(name: str) -> FilterRecord:
        table = load_table(output, SCORES, name)
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
        originals = _originals(near_duplicates, names, embeddings)
        kept = np.array([row for row, cause in enumerate(causes) if cause is None], dtype=np.int64)
        write_filtered(output, name, kept, _removed_rows(table, causes, near_duplicates, originals))
        removed = collections.Counter(str(cause) for cause in causes if cause is not None)
        captioned = int(load_has_caption(embeddings, name)[kept].sum())
        causes_counted = dict(sorted(removed.items()))
        made_from = contents.get(name, "")
        return FilterRecord(rows=len(kept), captioned=captioned, removed=causes_counted, made_from=made_from)

    return remove


def _compared(embeddings: Artifact, output: Output, names: Sequence[str], number: int, blocks: list[int]) -> ShardUnits:
    """Read a shard, and which of its rows passed the other filters."""
    causes = load_table(output, SCORES, names[number], ["cause"])["cause"]
    units = unit_rows(load_image_rows(embeddings, names[number]), blocks)
    return ShardUnits(number, units, np.flatnonzero(causes.is_null().to_numpy()))


def _originals(near_duplicates: NearDuplicates, names: Sequence[str], embeddings: Artifact) -> dict[int, str]:
    """Return for each near-duplicate row the key of its original; the keys of one shard are held at a time."""
    found: dict[int, str] = {}
    for shard in np.unique(near_duplicates.shard[~near_duplicates.is_open]):
        keys = load_keys(embeddings, names[shard])
        found |= {int(row): keys[near_duplicates.row[row]] for row in np.flatnonzero(near_duplicates.shard == shard)}
    return found


def _removed_rows(
    table: pa.Table, causes: Causes, near_duplicates: NearDuplicates, originals: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return what is to be recorded of the removed rows: key, cause, the value that decided, the original."""
    scores = table.to_pydict()
    rows = []
    for row in np.flatnonzero(causes != None).tolist():  # noqa: E711  elementwise
        cause = causes[row]
        if cause == NEAR_DUPLICATE:
            value = float(near_duplicates.cosine[row])
        else:
            value = scores["clip_score" if cause == LOW_SCORE else cause][row]
        removed = {"key": scores["key"][row], "cause": cause, "value": value, "duplicate_of": originals.get(row)}
        rows.append(removed)
    return rows
