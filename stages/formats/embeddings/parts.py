"""Take the embeddings of some images of a shard from where they are already, row by row."""

import numpy as np
import pyarrow as pa

from stages.formats.embeddings.layout import (
    EXTRA_CAPTIONS,
    EXTRA_TEXT,
    IMAGE,
    METADATA,
    TEXT,
    EmbeddingsRecord,
    read_text_encoders,
    state_kinds,
)
from stages.formats.embeddings.reader import ShardStates, open_text_states
from stages.formats.per_shard import has_table, load_table, open_array, save_array, save_table
from stages.formats.shards import index_images, shard_tar
from stages.storage.artifact import Artifact, Output, unit_record


def take_part(source: Artifact, unit: str, shards: Artifact, output: Output, name: str) -> EmbeddingsRecord | None:
    """Write the embeddings of a shard whose images are some of those of an earlier artifact's unit.

    The rows are the numbers that are there: a CLIP that embeds the images anew, in other batches, may give others in
    their last digits. None: not all of the images have embeddings there, and it is not known by key what became of
    them.
    """
    record = EmbeddingsRecord.parse(source.read_json(unit_record(unit)), source, unit_record(unit))
    table = load_table(source, METADATA, unit)
    known = {key: row for row, key in enumerate(table["key"].to_pylist())}
    keys = list(index_images(shard_tar(shards, name)))
    if record.failures or not known.keys() >= set(keys):
        return None
    rows = np.array([known[key] for key in keys], dtype=np.int64)
    for kind in (IMAGE, TEXT):
        save_array(output, kind, name, open_array(source, kind, unit)[rows])
    save_table(output, METADATA, name, table.take(rows))
    further = _take_further(source, unit, rows, output, name)
    for encoder in read_text_encoders(source):
        states = open_text_states(source, unit, encoder, width=read_text_encoders(source)[encoder].width)
        _write_states(states, np.concatenate([rows, table.num_rows + further]), state_kinds(encoder), output, name)
    captioned = int(np.sum(table.take(rows)["has_caption"].to_numpy()))
    return EmbeddingsRecord(rows=len(rows), captioned=captioned, failures={}, extra_captions=len(further))


def _take_further(source: Artifact, unit: str, rows: np.ndarray, output: Output, name: str) -> np.ndarray:
    """Write the captions that are not an image's first, and return which of the unit's they were."""
    if not has_table(source, EXTRA_CAPTIONS, unit):
        return np.zeros(0, dtype=np.int64)
    table = load_table(source, EXTRA_CAPTIONS, unit)
    new_row = {int(row): number for number, row in enumerate(rows)}
    owners = table["row"].to_pylist()
    found = np.array(
        sorted((n for n, row in enumerate(owners) if row in new_row), key=lambda n: (new_row[owners[n]], n)), dtype=int
    )
    if len(found):
        taken = table.take(found)
        numbers = pa.array([new_row[row] for row in taken["row"].to_pylist()], pa.int64())
        save_table(output, EXTRA_CAPTIONS, name, taken.set_column(1, table.schema.field("row"), numbers))
        save_array(output, EXTRA_TEXT, name, open_array(source, EXTRA_TEXT, unit)[found])
    return found


def _write_states(states: ShardStates, captions: np.ndarray, kinds: tuple[str, str], output: Output, name: str) -> None:
    """Write the token states of these captions, in this order."""
    parts = [states.of(caption) for caption in captions.tolist()]
    save_array(output, kinds[0], name, np.concatenate([states.values[:0], *parts]))
    save_array(output, kinds[1], name, np.cumsum([0, *map(len, parts)], dtype=np.int64))
