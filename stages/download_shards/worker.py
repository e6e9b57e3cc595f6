"""Make one shard: read the entries of its part of the source, resize the images, write them in their order."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cluster.item_progress import note_samples
from stages.contract.errors import ArtifactError, FailureCause, ItemFault, Unaccounted
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.growth import KIND, Digests, write_digests
from stages.download_shards.pieces import MEASURED, Piece, TaskPiece, join_pieces, take_rows, warn_of_damage
from stages.download_shards.resizing import Resized, ResizeEach, make_resizer
from stages.download_shards.sources.base import Entry, Skipped
from stages.download_shards.sources.registry import make_source
from stages.formats.per_shard import array_name
from stages.formats.samples import sample_keys
from stages.formats.shards import (
    EntryStatus,
    ShardEntry,
    ShardRecord,
    read_entries,
    write_shard,
)
from stages.formats.source_records import Counted, Counter
from stages.storage.artifact import UNITS, Output, unit_record
from stages.storage.takeover import take_unit
from stages.streaming.reuse import Reused

POOR = "poor"
DROPPED = (FailureCause.DUPLICATE_URL, FailureCause.DUPLICATE_CONTENT)  # left out on request


@dataclass(frozen=True)
class ShardTask:
    """One shard's part of the source."""

    index: int
    name: str
    """The shard's name: its index with leading zeros."""
    pieces: tuple[TaskPiece, ...]
    """Of its entries, in the order of its rows."""
    digests: Digests | None = None
    """Of its entries, where the source knows them."""

    @property
    def is_new(self) -> bool:
        """Whether it is read from the source."""
        return all(piece.base is None for piece in self.pieces)

    @property
    def is_whole(self) -> bool:
        """Whether it is a shard of an earlier artifact, as it is."""
        return len(self.pieces) == 1 and not self.is_new and self.pieces[0].rows is None


Finished = tuple[Entry, EntryStatus, Resized | ItemFault]


def make_shard_worker(
    config: DownloadShardsConfig, output: Output, *, resizes: bool = False
) -> Callable[[ShardTask], ShardRecord | Reused[ShardRecord]]:
    """Return the function that makes one shard and returns its record; ``resizes``: there are images to be resized."""
    resize_each, source = make_resizer(config, start=resizes), make_source(config)

    def make(task: ShardTask) -> ShardRecord | Reused[ShardRecord]:
        recorded = f"{UNITS}/{task.name}.json"
        if output.exists(recorded):  # by a process that died before it could report it
            return ShardRecord.parse(output.read_json(recorded), output, recorded)
        if task.is_whole and (taken := _take_whole(task, output)) is not None:
            return Reused(taken)
        made = [
            (None if task.is_whole else take_rows(piece, task.name)) or read(task.name, piece) for piece in task.pieces
        ]
        whole = join_pieces(made)
        write_shard(output, task.name, whole.entries, schema=whole.schema, image_suffix=config.encode_format)
        if task.digests is not None:
            write_digests(output, task.name, task.digests)
        record = _make_record(whole.entries, whole.failures, whole.skips)
        record = record.model_copy(update={"part_of": whole.part_of})
        return Reused(record) if whole.is_taken else record

    def read(name: str, piece: TaskPiece) -> Piece:
        part, skips = source.read(piece.part), Counter()
        finished = sorted(_resize_each(without_skipped(part.each, skips), resize_each), key=lambda one: one[0].index)
        check_count(name, part.count(), len(finished), skips)
        keys = sample_keys(entry.name or entry.row["url"] or "" for entry, _, _ in finished)
        made = [
            _shard_entry(key, entry.row, status, found)
            for key, (entry, status, found) in zip(keys, finished, strict=True)
        ]
        faults = collections.Counter(found.label for _, _, found in finished if isinstance(found, ItemFault))
        return Piece(made, pa.schema([*part.schema, *MEASURED]), faults, skips.counted)

    return make


def _take_whole(task: ShardTask, output: Output) -> ShardRecord | None:
    """Take a shard of an earlier artifact over as it is; None: it is damaged, with a warning."""
    assert task.pieces[0].base is not None
    artifact, unit = task.pieces[0].base
    try:
        return ShardRecord.parse(take_unit(artifact, unit, output, task.name), artifact, unit_record(unit))
    except ArtifactError as error:
        warn_of_damage(error, task.name)
        return None


def finish_shard(config: DownloadShardsConfig, record: ShardRecord, output: Output, name: str) -> None:
    """Record the shard in ``units/``, which makes it final: others may read it from then on.

    One that yielded too little has its record in ``poor/`` instead, until the stage accepts it or makes it anew.
    """
    if yields_enough(record, config):
        record.finish(output, name)
    else:
        output.write_record(f"{POOR}/{name}.json", record.to_json())


def yields_enough(record: ShardRecord, config: DownloadShardsConfig) -> bool:
    """Return whether ``min_yield`` of a shard's entries became images; dropped duplicates are no loss."""
    dropped = sum(record.failures.get(cause, 0) for cause in DROPPED)
    return record.images + dropped >= config.min_yield * record.rows


def drop_duplicates(
    name: str, rows: Sequence[int], record: ShardRecord, *, config: DownloadShardsConfig, output: Output
) -> ShardRecord:
    """Write a shard anew without the images of the given rows, which stay in its table, and return its new record."""
    entries, schema = read_entries(output, name)
    fault = ItemFault(FailureCause.DUPLICATE_CONTENT)
    for row in rows:
        lost = {**entries[row].row, "status": EntryStatus.FAILED_TO_DOWNLOAD, "error_message": str(fault)}
        entries[row] = dataclasses.replace(entries[row], image=None, row=lost)
    failures = collections.Counter(record.failures) + collections.Counter({fault.label: len(rows)})
    changed = _make_record(entries, failures, record.skips).model_copy(update={"part_of": record.part_of})
    with output.collecting():
        write_shard(output, name, entries, schema=schema, image_suffix=config.encode_format)
        if output.exists(array_name(KIND, name)):
            output.collect(array_name(KIND, name))
        changed.finish(output, name)
    return changed


def without_skipped(entries: Iterator[Entry | Skipped], skips: Counter) -> Iterator[Entry]:
    """Yield the entries that have a row, and count the others."""
    for entry in entries:
        if isinstance(entry, Entry):
            yield entry
        else:
            skips.add(entry.cause, entry.name, entry.kind)


def check_count(name: str, found: int, rows: int, skips: Counter) -> None:
    """Compare how many entries a shard's part of the source has with how many were met."""
    skipped = sum(one.count for one in skips.counted.values())
    if found != rows + skipped:
        raise Unaccounted(
            f"download_shards: shard {name}: its part of the source has {found} entries, of which {rows} were "
            f"read and {skipped} skipped: every entry must be one of these: run again, and report it if it comes again"
        )


def _resize_each(entries: Iterator[Entry], resize_each: ResizeEach) -> Iterator[Finished]:
    """Resize each image as it comes, so that originals are not kept; those without one come last."""
    faulty, fetched = list[Finished](), collections.deque[Entry]()

    def contents() -> Iterator[bytes]:
        for entry in entries:
            kept = dataclasses.replace(entry, content=b"")
            if isinstance(entry.content, ItemFault):
                faulty.append((kept, EntryStatus.FAILED_TO_DOWNLOAD, entry.content))
            else:
                fetched.append(kept)
                yield entry.content

    for number, made in enumerate(resize_each(contents()), 1):
        note_samples(number + len(faulty))
        is_fault = isinstance(made, ItemFault)
        yield fetched.popleft(), EntryStatus.FAILED_TO_RESIZE if is_fault else EntryStatus.SUCCESS, made
    yield from faulty


def _shard_entry(key: str, row: dict[str, Any], status: EntryStatus, found: Resized | ItemFault) -> ShardEntry:
    """Return the entry with the columns that are known only now."""
    image, error = (None, str(found)) if isinstance(found, ItemFault) else (found.content, None)
    sizes = {name: getattr(found, name, None) for name in MEASURED.names[3:]}
    return ShardEntry(key, image, {**row, "key": key, "status": status, "error_message": error, **sizes})


def _make_record(
    entries: Sequence[ShardEntry], failures: Mapping[str, int], skips: Mapping[str, Counted]
) -> ShardRecord:
    images = [entry for entry in entries if entry.row["status"] == EntryStatus.SUCCESS]
    return ShardRecord(
        rows=len(entries),
        images=len(images),
        captioned=sum(entry.row.get("caption") is not None for entry in images),
        failures=dict(sorted(failures.items())),
        skips=skips,
    )
