"""Make one shard: take the entries of its part of the source, resize the images, write them by order of their keys.

The layout is img2dataset's, and the bytes are the same every time: no times, no order of arrival.
"""

import collections
import io
import json
import math
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.entries import Entry
from stages.download_shards.failures import cause_of
from stages.download_shards.images import make_resizer, unmeasured
from stages.download_shards.sources import open_part
from stages.formats.shards import read_shard
from stages.storage.artifact import UNITS, Output

Record = dict[str, Any]

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


@dataclass(frozen=True)
class Sample:
    """One entry when it is done: the image's bytes in the shard, if any, and its row in the shard's parquet."""

    key: str
    image: bytes | None
    meta: dict[str, Any]


def make_shard_worker(config: DownloadShardsConfig, output: Output) -> Callable[[ShardTask], tuple[str, Record]]:
    """Return the function that makes one shard and returns its name and record.

    A shard with its record in ``units/`` is final: others may have read it. One that yielded too little has its record
    in ``poor/`` instead, until the stage accepts it or makes it anew.
    """
    resize = make_resizer(config)

    def make(task: ShardTask) -> tuple[str, Record]:
        finished = f"{UNITS}/{task.name}.json"
        if output.exists(finished):  # by a process that died before it could say so
            return task.name, output.read_json(finished)
        schema, entries = open_part(config, task.part, base_url=task.base_url)
        found = sorted(_finish(entries, resize), key=lambda pair: pair[0].index)
        keys = _keys(task, len(found), config)
        samples = [
            _make_sample(key, entry.row, image, measured)
            for key, (entry, image, measured) in zip(keys, found, strict=True)
        ]
        record = publish(task.name, samples, _full_schema(schema), config, output)
        if yields_enough(record, config):
            output.finish_unit(task.name, record)
        else:
            output.write_json(f"{POOR}/{task.name}.json", record)
        return task.name, record

    return make


def yields_enough(record: Record, config: DownloadShardsConfig) -> bool:
    """Tell whether so many of a shard's entries became images as the stage demands; dropped duplicates are no loss."""
    dropped = sum(record["failures"].get(cause, 0) for cause in DROPPED)
    return bool(record["images"] + dropped >= config.min_yield * record["rows"])


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


def _make_sample(key: str, row: dict[str, Any], image: bytes | None, measured: dict[str, Any]) -> Sample:
    return Sample(key, image, {**row, "key": key, **measured})


def _keys(task: ShardTask, num_rows: int, config: DownloadShardsConfig) -> list[str]:
    """Return img2dataset's keys: the shard's digits, then the row's."""
    digits = max(math.ceil(math.log10(config.rows_per_shard)), len(str(max(num_rows - 1, 0))) if num_rows > 1 else 0)
    return [f"{task.index * 10**digits + row:0{len(task.name) + digits}d}" for row in range(num_rows)]


def _full_schema(rows: pa.Schema) -> pa.Schema:
    return pa.schema([*rows, *(pa.field(name, kind) for name, kind in _MEASURED.items())])


def publish(
    name: str, samples: list[Sample], schema: pa.Schema, config: DownloadShardsConfig, output: Output
) -> Record:
    """Write a shard's files and return its record."""
    with output.writing(f"shards/{name}.tar") as path:
        _write_tar(path, samples, config.encode_format)
    with output.writing(f"shards/{name}.parquet") as path:
        pq.write_table(pa.Table.from_pylist([sample.meta for sample in samples], schema=schema), path)
    output.write_json(f"shards/{name}_stats.json", _stats(samples))
    failed = [sample.meta for sample in samples if sample.meta["status"] != "success"]
    causes = collections.Counter(cause_of(meta["status"], meta["error_message"] or "") for meta in failed)
    images = [sample for sample in samples if sample.meta["status"] == "success"]
    return {
        "rows": len(samples),
        "images": len(images),
        "captioned": sum(sample.meta.get("caption") is not None for sample in images),
        "failures": dict(sorted(causes.items())),
    }


def drop_images(name: str, rows: Iterable[int], reason: str, config: DownloadShardsConfig, output: Output) -> Record:
    """Write a shard anew without the images of the given rows, which stay in its parquet with the reason."""
    with tempfile.TemporaryDirectory(prefix="corgi-shard-") as folder:
        copy = Path(folder) / "shard.tar"  # not output.local, whose copy of a remote file would outlive the change
        copy.write_bytes(output.open(f"shards/{name}.tar").read())
        images = {sample.key: sample.image for sample in read_shard(copy)}
    with output.open(f"shards/{name}.parquet") as file:
        table = pq.read_table(file)
    samples, dropped = [], set(rows)
    for row, meta in enumerate(table.to_pylist()):
        if row in dropped:
            samples.append(Sample(meta["key"], None, {**meta, "status": "failed_to_download", "error_message": reason}))
        else:
            samples.append(Sample(meta["key"], images.get(meta["key"]), meta))
    record = publish(name, samples, table.schema, config, output)
    output.finish_unit(name, record)
    return record


def _stats(samples: list[Sample]) -> Record:
    """Count as img2dataset does, without its times, so that the bytes are the same every time."""
    status = collections.Counter(sample.meta["status"] for sample in samples)
    messages = collections.Counter(sample.meta["error_message"] or "success" for sample in samples)
    return {
        "count": len(samples),
        "successes": status["success"],
        "failed_to_download": status["failed_to_download"],
        "failed_to_resize": status["failed_to_resize"],
        "status_dict": dict(messages),
    }


def _write_tar(path: Path, samples: list[Sample], image_suffix: str) -> None:
    """Write the webdataset: key.<image>, key.txt where there is a caption, key.json; sorted, owner and time zero."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            if sample.image is None:
                continue
            members = {"json": _to_json(sample.meta), image_suffix: sample.image}
            if sample.meta.get("caption") is not None:
                members["txt"] = sample.meta["caption"].encode()
            for suffix, content in sorted(members.items()):
                info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                info.size, info.mode = len(content), 0o444
                tar.addfile(info, io.BytesIO(content))


def _to_json(meta: dict[str, Any]) -> bytes:
    """Write a row as JSON; what JSON has no form for (dates, decimals) as text, a number that is none as null."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in meta.items()
    }
    if len(plain.get("captions") or ()) < 2:
        plain.pop("captions", None)
    return json.dumps(plain, indent=4, default=str).encode()
