"""Shards of painted squares beside embeddings that name their colours, as download_shards and embed_clip leave them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from stages.formats.embeddings.layout import EmbeddingsRecord
from stages.formats.shards import ShardRecord
from stages.storage.artifact import Artifact, Output

DIM = 4


def color_of(row: int) -> tuple[int, int, int]:
    return (row * 7 % 256, row * 31 % 256, row * 57 % 256)


def embedding_of(row: int) -> list[float]:
    return [*(c / 255 for c in color_of(row)), 1.0]


def make_inputs(folder: Path, sizes: tuple[int, ...] = (12, 9, 11), side: int = 16) -> dict[str, Artifact]:
    """Write shards whose tars hold more than was embedded, in another order."""
    shards, embedded = Output(str(folder / "s"), "download_shards", "a"), Output(str(folder / "e"), "embed_clip", "b")
    first = 0
    for index, size in enumerate(sizes):
        name, rows = f"{index:05d}", list(range(first, first + size))
        with shards.writing(f"shards/{name}.tar") as path, tarfile.open(path, "w") as tar:
            for row in [9000 + index, *rows]:
                add_image(tar, row, side)
        with embedded.writing(f"metadata/metadata_{name}.parquet") as path:
            pq.write_table(pa.table({"key": [f"{row:05d}" for row in reversed(rows)]}), path)
        with embedded.writing(f"img_emb/img_emb_{name}.npy") as path, path.open("wb") as file:
            np.save(file, np.array([embedding_of(row) for row in reversed(rows)], dtype=np.float16))
        ShardRecord(rows=size + 1, images=size + 1, captioned=0, failures={}).finish(shards, name)
        EmbeddingsRecord(rows=size, captioned=0, failures={}).finish(embedded, name)
        first += size
    embedded.write_json("clips.json", [{"reference": "x", "digest": "d", "embed_dim": DIM, "image_size": 8}])
    return {"download_shards": shards, "embed_clip": embedded}


def add_image(tar: tarfile.TarFile, row: int, side: int = 16) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), color_of(row)).save(buffer, "PNG")
    member = tarfile.TarInfo(f"{row:05d}.png")
    member.size = buffer.tell()
    buffer.seek(0)
    tar.addfile(member, buffer)
