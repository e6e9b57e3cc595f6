"""Hugging Face folders as strangers make them, and Arrow files whose offsets lie."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile.tars import png

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table_of(reds: Sequence[int], **columns: Any) -> pa.Table:
    """Return rows of small images with a text for each, and further columns."""
    images = [{"bytes": png(red), "path": None} for red in reds]
    texts = [f"caption {red}" for red in reds]
    return pa.table({"image": pa.array(images, IMAGE), "text": texts} | columns)


def write_parquet(path: Path, reds: Sequence[int], **columns: Any) -> Path:
    """Write rows as a parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(reds, **columns), path)
    return path


def write_arrow(path: Path, table: pa.Table, *, batch_rows: int = 4) -> Path:
    """Write rows as save_to_disk does: a stream of batches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return path


def save_split(folder: Path, reds: Sequence[int], *, files: Sequence[str] | None = None, split: str = "train") -> Path:
    """Write a folder as save_to_disk does; ``files`` are the names that state.json lists."""
    write_arrow(folder / "data-00000-of-00001.arrow", table_of(reds))
    names = ["data-00000-of-00001.arrow"] if files is None else list(files)
    state = {"_data_files": [{"filename": name} for name in names], "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def corrupt_offsets(path: Path, table: pa.Table, value: int) -> Path:
    """Write an Arrow stream in which the last offset of the last batch's texts is ``value``."""
    write_arrow(path, table)
    content = bytearray(path.read_bytes())
    texts = table["text"].chunk(0)[-(len(table) % 4 or 4) :].to_pylist()
    ends = [sum(len(text) for text in texts[: index + 1]) for index in range(len(texts))]
    offsets = struct.pack(f"<{len(ends) + 1}i", 0, *ends)
    at = content.rfind(offsets)
    assert at > 0
    content[at + 4 * len(ends) : at + 4 * len(ends) + 4] = struct.pack("<i", value)
    path.write_bytes(content)
    return path
