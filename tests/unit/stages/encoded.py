"""Painted squares in shards, with embeddings, for the stages that train on encoded images."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cluster.mapping import Mapper, map_in_process
from cluster.training import launch_in_process
from stages.contract.events import Event
from stages.contract.stage import Allocation, StageContext
from stages.formats.embeddings.layout import EmbeddingsRecord
from stages.formats.shards import ShardRecord
from stages.storage.artifact import Artifact, Output

DIM = 4
SIDE = 16
SIZES = (14, 9, 11)


def color_of(row: int) -> tuple[int, int, int]:
    return (row * 7 % 256, row * 31 % 256, row * 57 % 256)


def key_of(row: int) -> str:
    return f"{row:05d}"


def encoded_square(row: int) -> bytes:
    """Return a PNG: the row's color, its lower half darker."""
    image = Image.new("RGB", (SIDE, SIDE), color_of(row))
    image.paste(tuple(c // 2 for c in color_of(row)), (0, SIDE // 2, SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_shards(folder: Path, *, sizes: Sequence[int] = SIZES, corrupt: tuple[int, ...] = ()) -> Output:
    """Write shards as download_shards does; corrupt rows hold half an image."""
    shards, first = Output(str(folder), "download_shards", "a"), 0
    for index, size in enumerate(sizes):
        name = f"{index:05d}"
        with shards.writing(f"shards/{name}.tar") as path, tarfile.open(path, "w") as tar:
            for row in range(first, first + size):
                content = encoded_square(row)
                content = content[:40] if row in corrupt else content
                member = tarfile.TarInfo(f"{key_of(row)}.png")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        ShardRecord(rows=size, images=size, captioned=0, failures={}).finish(shards, name)
        first += size
    return shards


def make_embeddings(folder: Path, *, sizes: Sequence[int] = SIZES) -> Output:
    """Write embeddings as embed_clip does, each shard reversed; every other image has a caption, its negative."""
    embedded, first = Output(str(folder), "embed_clip", "b"), 0
    for index, size in enumerate(sizes):
        name, rows = f"{index:05d}", list(reversed(range(first, first + size)))
        with embedded.writing(f"metadata/metadata_{name}.parquet") as path:
            has_caption = [row % 2 == 0 for row in rows]
            pq.write_table(pa.table({"key": [key_of(row) for row in rows], "has_caption": has_caption}), path)
        values = np.array([[*(c / 255 for c in color_of(row)), 1.0] for row in rows], dtype=np.float16)
        with embedded.writing(f"img_emb/img_emb_{name}.npy") as path, path.open("wb") as file:
            np.save(file, values)
        text = np.where(np.array(has_caption)[:, None], -values, np.nan).astype(np.float16)
        with embedded.writing(f"text_emb/text_emb_{name}.npy") as path, path.open("wb") as file:
            np.save(file, text)
        EmbeddingsRecord(rows=size, captioned=sum(has_caption), failures={}).finish(embedded, name)
        first += size
    embedded.write_json("clips.json", [{"reference": "x", "digest": "d", "embed_dim": DIM, "image_size": 8}])
    return embedded


def context(events: list[Event] | None = None, *, map_shards: Mapper = map_in_process) -> StageContext:
    """Make a context that works in this process."""
    keep = events.append if events is not None else lambda event: None
    return StageContext(keep, map_shards, launch_in_process, Allocation())


def files(artifact: Artifact, folder: str) -> dict[str, bytes]:
    """Return the bytes of the files in a folder of the artifact."""
    return {path.name: path.read_bytes() for path in Path(artifact.path(folder)).iterdir()}
