"""Make one shard: read the entries of its part of the source, resize the images, write them in order of their keys."""

import collections
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.entries import Entry
from stages.download_shards.failures import cause_of
from stages.download_shards.images import make_resizer, unmeasured
from stages.download_shards.sources import open_part
from stages.formats.shards import ShardEntry, ShardRecord, read_entries, write_shard
from stages.storage.artifact import UNITS, Output

POOR = "poor"
DROPPED = ("duplicate_url", "duplicate_content")  # left out on purpose

_MEASURED: dict[str, pa.DataType] = {
    "key": pa.string(),
    "status": pa.string(),
    "error_message": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
    "sha256": pa.string(),
}


@dataclass(frozen=True)
class ShardTask:
    """One shard's part of the source."""

    index: int
    name: str
    """The shard's name: its index with leading zeros."""
    part: Any
    """What :func:`~stages.download_shards.sources.open_part` reads the entries from."""
    base_url: str = ""
    """Stands before each address to fetch it, and is not recorded."""


def make_shard_worker(config: DownloadShardsConfig, output: Output) -> Callable[[ShardTask], ShardRecord]:
    """Return the function that makes one shard and returns its record."""
    resize = make_resizer(config)

    def make(task: ShardTask) -> ShardRecord:
        finished = f"{UNITS}/{task.name}.json"
        if output.exists(finished):  # by a process that died before it could report it
            return ShardRecord.parse(output.read_json(finished), output, finished)
        schema, entries = open_part(config, task.part, base_url=task.base_url)
        found = sorted(_finish(entries, resize), key=lambda pair: pair[0].index)
        keys = _keys(task, len(found), config)
        made = [
            ShardEntry(key, image, {**entry.row, "key": key, **measured})
            for key, (entry, image, measured) in zip(keys, found, strict=True)
        ]
        return publish(task.name, made, _full_schema(schema), config, output)

    return make


def finish_shard(config: DownloadShardsConfig, record: ShardRecord, output: Output, name: str) -> None:
    """Record the shard in ``units/``, which makes it final: others may read it from then on.

    One that yielded too little has its record in ``poor/`` instead, until the stage accepts it or makes it anew.
    """
    if yields_enough(record, config):
        record.finish(output, name)
    else:
        output.write_json(f"{POOR}/{name}.json", record.to_json())


def yields_enough(record: ShardRecord, config: DownloadShardsConfig) -> bool:
    """Tell whether so many of a shard's entries became images as the stage demands; dropped duplicates are no loss."""
    dropped = sum(record.failures.get(cause, 0) for cause in DROPPED)
    return bool(record.images + dropped >= config.min_yield * record.rows)


def _finish(
    entries: Iterator[Entry], resize: Callable[[bytes], tuple[bytes | None, dict[str, Any]]]
) -> Iterator[tuple[Entry, bytes | None, dict[str, Any]]]:
    """Resize each image as it comes, so that originals are not kept."""
    for entry in entries:
        if entry.content is None:
            status, image, measured = "failed_to_download", None, unmeasured(entry.error or "no content")
        else:
            image, measured = resize(entry.content)
            status = "success" if image is not None else "failed_to_resize"
        yield Entry(entry.index, entry.row, None, None), image, {"status": status, **measured}


def _keys(task: ShardTask, num_rows: int, config: DownloadShardsConfig) -> list[str]:
    """Return img2dataset's keys: the shard's digits, then the row's."""
    digits = max(math.ceil(math.log10(config.rows_per_shard)), len(str(max(num_rows - 1, 0))) if num_rows > 1 else 0)
    return [f"{task.index * 10**digits + row:0{len(task.name) + digits}d}" for row in range(num_rows)]


def _full_schema(rows: pa.Schema) -> pa.Schema:
    return pa.schema([*rows, *(pa.field(name, kind) for name, kind in _MEASURED.items())])


def publish(
    name: str, entries: list[ShardEntry], schema: pa.Schema, config: DownloadShardsConfig, output: Output
) -> ShardRecord:
    """Write a shard's files and return its record."""
    write_shard(output, name, entries, schema=schema, image_suffix=config.encode_format)
    failed = [entry.row for entry in entries if not entry.is_image]
    causes = collections.Counter(cause_of(row["status"], row["error_message"] or "") for row in failed)
    images = [entry for entry in entries if entry.is_image]
    return ShardRecord(
        rows=len(entries),
        images=len(images),
        captioned=sum(entry.row.get("caption") is not None for entry in images),
        failures=dict(sorted(causes.items())),
    )


def drop_images(
    name: str, rows: Iterable[int], reason: str, config: DownloadShardsConfig, output: Output
) -> ShardRecord:
    """Write a shard anew without the images of the given rows, which stay in its parquet with the reason."""
    entries, schema = read_entries(output, name)
    for row in rows:
        lost = {**entries[row].row, "status": "failed_to_download", "error_message": reason}
        entries[row] = ShardEntry(entries[row].key, None, lost)
    record = publish(name, entries, schema, config, output)
    record.finish(output, name)
    return record
