"""Read a shard in batches that are prepared for the models, in threads, before they are needed."""

import collections
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.contract.causes import FailureCause
from stages.contract.errors import InputFault
from stages.encoders.clip import ClipEncoder, Prepared, PreparedBatch
from stages.formats.images import decode_image
from stages.formats.shards import ShardSample, read_shard
from stages.streaming.prefetch import prefetch

PREFETCHED_BATCHES = 2


@dataclass(frozen=True)
class ReadBatch:
    """Samples whose images could be read, prepared for the models; blank captions are left out."""

    keys: list[str]
    captions: list[tuple[str, ...]]
    images: PreparedBatch


@dataclass(frozen=True)
class _Read:
    """A sample with its prepared image, or the cause of its loss."""

    sample: ShardSample
    image: Prepared | None
    cause: str = ""


class BatchReader:
    """Decodes each image once and prepares it for every model, in threads, while the models work."""

    def __init__(self, clip: ClipEncoder, *, batch_size: int, threads: int, with_captions: bool) -> None:
        self._clip = clip
        self._batch_size = batch_size
        self._threads = threads
        self._with_captions = with_captions

    def batches(self, path: Path, failures: collections.Counter[str]) -> Iterator[ReadBatch]:
        """Yield the samples of a shard in their order; count those without a readable image by cause."""
        samples = read_shard(path, with_captions=self._with_captions)
        window = PREFETCHED_BATCHES * self._batch_size
        readable = _readable(prefetch(self._read, samples, threads=self._threads, most=window), failures)
        return prefetch(self._batch, _in_batches(readable, self._batch_size), threads=1, most=1)

    def _read(self, sample: ShardSample) -> _Read:
        if sample.image is None:
            return _Read(sample, None, FailureCause.NO_IMAGE.value)
        try:
            return _Read(sample, self._clip.prepare(decode_image(sample.image, where=sample.key)))
        except InputFault:
            return _Read(sample, None, FailureCause.CORRUPT_IMAGE.value)

    def _batch(self, rows: list[_Read]) -> ReadBatch:
        captions = [tuple(caption for caption in row.sample.captions if caption.strip()) for row in rows]
        images = self._clip.collate([row.image for row in rows if row.image is not None])
        return ReadBatch([row.sample.key for row in rows], captions, images)


def _readable(rows: Iterable[_Read], failures: collections.Counter[str]) -> Iterator[_Read]:
    for row in rows:
        if row.image is None:
            failures[row.cause] += 1
        else:
            yield row


def _in_batches(rows: Iterator[_Read], size: int) -> Iterator[list[_Read]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch
