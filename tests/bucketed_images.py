"""Shards of gradients of three aspect ratios beside embeddings, as download_shards and embed_clip leave them."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from stages.formats.embeddings.layout import EmbeddingsRecord
from stages.formats.per_shard import save_array, save_table
from stages.formats.shards import EntryStatus, ShardEntry, ShardRecord, write_shard
from stages.storage.artifact import Artifact, Output

DIM = 4
#: Width and height of the image of each number, in turn: wide, square, tall, very wide.
SIZES = ((60, 36), (40, 40), (36, 60), (120, 36), (60, 36))
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "status", "error_message", "caption")),
        *((name, pa.int32()) for name in ("width", "height", "original_width", "original_height")),
    ]
)


Shapes = tuple[tuple[int, int], ...]


def make_image(row: int, shapes: Shapes = SIZES) -> bytes:
    """Return a PNG whose red grows from left to right, and whose green from top to bottom."""
    width, height = shapes[row % len(shapes)]
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[..., 2] = row * 7 % 256
    with io.BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()


def make_row(row: int, shapes: Shapes = SIZES) -> dict[str, object]:
    """Return what the shard's table says of the image."""
    width, height = shapes[row % len(shapes)]
    sizes = {"width": width, "height": height, "original_width": 2 * width, "original_height": 2 * height}
    return {"key": f"{row:05d}", "status": EntryStatus.SUCCESS.value, "error_message": None, "caption": "a", **sizes}


def make_inputs(folder: Path, sizes: tuple[int, ...] = (14, 11, 15), shapes: Shapes = SIZES) -> dict[str, Artifact]:
    """Write shards and embeddings, whose rows are in another order than the images."""
    shards, embedded = Output(str(folder / "s"), "download_shards", "a"), Output(str(folder / "e"), "embed_clip", "b")
    first = 0
    for index, size in enumerate(sizes):
        name, rows = f"{index:05d}", list(range(first, first + size))
        entries = [ShardEntry(f"{row:05d}", make_image(row, shapes), make_row(row, shapes)) for row in rows]
        write_shard(shards, name, entries, schema=_SCHEMA, image_suffix="png")
        ShardRecord(rows=size, images=size, captioned=size, failures={}).finish(shards, name)
        save_table(embedded, "metadata", name, pa.table({"key": [f"{row:05d}" for row in reversed(rows)]}))
        values = np.array([[row % 5, row % 3, 1, row / 40] for row in reversed(rows)], dtype=np.float16)
        save_array(embedded, "img_emb", name, values)
        EmbeddingsRecord(rows=size, captioned=0, failures={}).finish(embedded, name)
        first += size
    embedded.write_json("clips.json", [{"reference": "x", "digest": "d", "embed_dim": DIM, "image_size": 8}])
    return {"download_shards": shards, "embed_clip": embedded}
