"""Webdataset shards in img2dataset's layout: writer and readers.

    shards/<shard>.tar           of each image key.<jpg|png|…>, key.txt (its first caption), key.json (its row)
    shards/<shard>.parquet       a row for every entry, the lost ones too
    shards/<shard>_stats.json    counts by status and message

The bytes are the same every time: no times, no order of arrival.
"""

import collections
import functools
import io
import json
import math
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from stages.contract.documents import UnitRecord
from stages.contract.errors import ArtifactError, FailureCause, InputFault
from stages.contract.parsing import load_json, parsing
from stages.formats.per_shard import parsing_table
from stages.formats.source_records import Counted
from stages.formats.tar_samples import Files, Span, image_suffixes, index_tar, read_file
from stages.storage.artifact import Artifact, Output, unit_record
from stages.storage.takeover import content_of

_NAMED = 5  # shards, in a message
_CAUSES = {message: cause for cause in FailureCause for message in cause.messages}


def shard_names(num_shards: int) -> list[str]:
    """Return the shards' names: their numbers, all with the same number of digits."""
    digits = max(5, len(str(num_shards - 1)))
    return [f"{index:0{digits}d}" for index in range(num_shards)]


class EntryStatus(StrEnum):
    """What became of an entry, in img2dataset's words."""

    SUCCESS = "success"
    FAILED_TO_DOWNLOAD = "failed_to_download"
    FAILED_TO_RESIZE = "failed_to_resize"


class ShardRecord(UnitRecord):
    """The record of a downloaded shard."""

    counted: ClassVar[Mapping[str, str]] = {"rows": "rows", "images": "images", "captioned": "captioned"}

    rows: int
    """Entries of the source, the lost ones included."""
    images: int
    captioned: int
    failures: Mapping[str, int]
    skips: Mapping[str, Counted] = {}
    """What the part of the source held besides ``rows``."""
    part_of: str = ""
    """The content (:func:`shard_content`) of the shard of an earlier artifact, some entries of which it keeps."""


# ---- writing


@dataclass(frozen=True)
class ShardEntry:
    """One entry to write: the image's bytes, if any, and its row of the parquet file."""

    key: str
    image: bytes | None
    row: dict[str, Any]


def write_shard(
    output: Output, name: str, entries: Sequence[ShardEntry], *, schema: pa.Schema, image_suffix: str
) -> None:
    """Write the files of a shard."""
    with output.writing(_tar(name)) as path:
        _write_tar(path, entries, image_suffix)
    with output.writing(_table(name)) as path:
        pq.write_table(pa.Table.from_pylist([entry.row for entry in entries], schema=schema), path)
    output.write_json(f"shards/{name}_stats.json", _stats(entries))


def _stats(entries: Sequence[ShardEntry]) -> dict[str, Any]:
    """Count as img2dataset does, without its times."""
    status = collections.Counter(entry.row["status"] for entry in entries)
    messages = collections.Counter(entry.row["error_message"] or "success" for entry in entries)
    return {
        "count": len(entries),
        "successes": status[EntryStatus.SUCCESS],
        "failed_to_download": status[EntryStatus.FAILED_TO_DOWNLOAD],
        "failed_to_resize": status[EntryStatus.FAILED_TO_RESIZE],
        "status_dict": dict(messages),
    }


def _write_tar(path: Path, entries: Sequence[ShardEntry], image_suffix: str) -> None:
    """Write key.<image>, key.txt where there is a caption, and key.json; sorted, with owner and time zero."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for entry in entries:
            if entry.image is None:
                continue
            members = {"json": _to_json(entry.row), image_suffix: entry.image}
            if entry.row.get("caption") is not None:
                members["txt"] = entry.row["caption"].encode()
            for suffix, content in sorted(members.items()):
                info = tarfile.TarInfo(f"{entry.key}.{suffix}")
                info.size, info.mode = len(content), 0o444
                tar.addfile(info, io.BytesIO(content))


def _to_json(row: Mapping[str, Any]) -> bytes:
    """Return a row as JSON; what has no JSON form (dates, decimals) as text, numbers that are not finite as null."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
    if len(plain.get("captions") or ()) < 2:
        plain.pop("captions", None)
    return json.dumps(plain, indent=4, default=str).encode()


# ---- reading


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard: the encoded image if there is one, and its captions, if any.

    In the tar, ``key.txt`` holds the first caption; where there are several, ``key.json`` lists them all.
    """

    key: str
    image: bytes | None
    captions: tuple[str, ...]


def shard_tar(shards: Artifact, name: str) -> Path:
    """Return a local path of a shard's tar, to be opened at once."""
    return shards.local(_tar(name), record=unit_record(name))


def shard_content(shards: Artifact, name: str) -> str | None:
    """Return what identifies a shard's images and captions; None: its record has no checksum of them."""
    return content_of(shards, name, _tar(name))


def require_units(stage: str, units: Collection[str], shards: Collection[str]) -> None:
    """Check that what a stage made, perhaps in another experiment, has a unit of each of these shards, by name.

    Raises:
        InputFault: it lacks some.
    """
    lacking = sorted(set(shards) - set(units))
    if lacking:
        named = ", ".join(lacking[:_NAMED]) + (", …" if len(lacking) > _NAMED else "")
        raise made_of_other_shards(stage, f"found nothing of {len(lacking)} of {len(shards)} shards ({named})")


def made_of_other_shards(stage: str, found: str) -> InputFault:
    """Return the error of what a stage made in another experiment, of shards that hold other images than these."""
    return InputFault(
        f"{stage}: {found}: expected what was made of all these shards, or of shards of the same entries, divided "
        f"alike (download_shards.source, download_shards.rows_per_shard): leave reuse.{stage} out and give {stage} a "
        f"section, so that it is made of these; or name an experiment of this download in reuse.{stage}"
    )


def read_table(shards: Artifact, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a shard's parquet file, or those of the columns that it has."""
    with shards.open(_table(name), record=unit_record(name)) as file, parsing_table(shards, _table(name)):
        return pq.ParquetFile(file).read(columns=columns)


def read_shard(path: Path, *, with_captions: bool = True) -> Iterator[ShardSample]:
    """Yield the samples of one shard in their order; without captions, their texts are not read."""
    with path.open("rb") as tar:
        for key, files in _samples(path, tar).items():
            image = _span(files, image_suffixes(files)[0])
            captions = _captions(path, files, tar) if with_captions else ()
            yield ShardSample(key, None if image is None else read_file(tar, image), captions)


def failure_label(row: Mapping[str, Any]) -> str:
    """Return the name under which a lost entry is counted, from its row: an :class:`ItemFault` wrote its message."""
    message, _, _ = (row["error_message"] or "").partition(":")
    head, _, status = message.rpartition(" ")
    if _CAUSES.get(head) is FailureCause.HTTP:
        return f"{FailureCause.HTTP}_{status}"
    unknown = FailureCause.CORRUPT_IMAGE if row["status"] == EntryStatus.FAILED_TO_RESIZE else FailureCause.OTHER
    return _CAUSES.get(message, unknown).value


def read_entries(output: Artifact, name: str) -> tuple[list[ShardEntry], pa.Schema]:
    """Return all entries of a shard, to write them anew, and the schema of their rows."""
    images = {sample.key: sample.image for sample in read_shard(shard_tar(output, name), with_captions=False)}
    table = read_table(output, name)
    return [ShardEntry(row["key"], images.get(row["key"]), row) for row in table.to_pylist()], table.schema


def index_images(path: Path) -> dict[str, Span]:
    """Return where each image of a shard lies in its tar, offset and size in bytes, by key, in their order."""
    with path.open("rb") as tar:
        found = {key: _span(files, image_suffixes(files)[0]) for key, files in _samples(path, tar).items()}
    return {key: span for key, span in found.items() if span is not None}


def read_captions(path: Path) -> dict[str, str]:
    """Return the first caption of each captioned image of a shard, by key, sorted; no image is read."""
    captions = {}
    with path.open("rb") as tar:
        for key, files in sorted(_samples(path, tar).items()):
            text = _span(files, "txt")
            if text is not None and _span(files, image_suffixes(files)[0]) is not None:
                with parsing(functools.partial(_damaged, path)):
                    captions[key] = read_file(tar, text).decode()
    return {key: caption for key, caption in captions.items() if caption}


def read_table_captions(shards: Artifact, name: str) -> dict[str, str]:
    """Return what :func:`read_captions` does, from a shard's parquet file: its tar is not fetched."""
    columns = read_table(shards, name, ("key", "status", "caption")).to_pydict()
    rows = zip(columns["key"], columns["status"], columns.get("caption", ()), strict=False)
    return {key: caption for key, status, caption in rows if caption and status == EntryStatus.SUCCESS}


def read_member(path: Path, offset: int, size: int) -> bytes:
    """Return the bytes of a tar's member."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _samples(path: Path, tar: IO[bytes]) -> Mapping[str, Files]:
    index = index_tar(tar)
    if index.fault is not None:
        raise _damaged(path, str(index.fault))
    return index.samples


def _span(files: Files, suffix: str | None) -> Span | None:
    span = None if suffix is None else files.get(suffix)
    return None if isinstance(span, FailureCause) else span


def _captions(path: Path, files: Files, tar: IO[bytes]) -> tuple[str, ...]:
    described, text = (_span(files, suffix) for suffix in ("json", "txt"))
    with parsing(functools.partial(_damaged, path)):
        listed = load_json(read_file(tar, described)).get("captions") if described else None
        first = read_file(tar, text).decode() if text else ""
    return tuple(listed) if listed else (first,) if first else ()


def _damaged(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"download_shards: the shard {path} is damaged ({reason}): expected it as it was written: delete that artifact "
        "and run again"
    )


def _tar(name: str) -> str:
    return f"shards/{name}.tar"


def _table(name: str) -> str:
    return f"shards/{name}.parquet"
