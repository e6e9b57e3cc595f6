"""Passes over all shards."""

import contextlib
import ctypes
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from cluster.item_progress import note_samples
from cluster.mapping import Mapper, WorkerResources, map_in_process
from models.gaussians.kmeans import Kind, KMeansState, Pass
from models.gaussians.moments import Moments
from stages.formats.embeddings.reader import RowBlock, image_row_blocks, load_image_rows
from stages.storage.artifact import Artifact
from stages.streaming.prefetch import prefetch

Result = TypeVar("Result")

NUM_PARTS = 64  # that the shards are cut into for workers; a worker that dies costs one of them


@dataclass(frozen=True)
class PassSettings:
    """The settings of one pass; they are sent once to each worker."""

    state: KMeansState
    rows: int
    kind: Kind
    last: bool


@dataclass(frozen=True)
class Passes:
    """Makes passes over all shards of embeddings, on the workers of a map."""

    embeddings: Artifact
    rows: Mapping[str, int]  # of each shard
    kind: Kind
    mapper: Mapper
    resources: WorkerResources
    report: Callable[[int, int], None]
    """Called within a pass with the number of those before it, and with how many rows of it are done."""

    def __call__(self, state: KMeansState, last: bool) -> Moments:
        """Make one pass. How the shards are cut into parts changes no bit; here, one takes least memory."""
        shards = list(self.rows)
        num_parts = 1 if self.mapper is map_in_process else min(NUM_PARTS, len(shards))
        parts = [shards[number::num_parts] for number in range(num_parts)]
        settings = PassSettings(state, sum(self.rows.values()), self.kind, last)
        report = functools.partial(self.report, len(state.inertias))
        note = report if self.mapper is map_in_process else note_samples
        results = self.mapper(functools.partial(_make_worker, self.embeddings, settings, note), parts, self.resources)
        total: Moments = next(results)
        report(int(total.counts.sum()))
        for moments in results:
            total += moments
            del moments  # before the next ones come
            report(int(total.counts.sum()))
        give_back_freed_memory()
        return total


def add_up(one_pass: Pass, blocks: Iterable[RowBlock], num_threads: int, note: Callable[[int], None]) -> None:
    """Read blocks and add them up, in ``num_threads`` threads; after each, the rows so far are noted."""

    def add(block: RowBlock) -> int:
        rows = block.load()
        one_pass.add(torch.from_numpy(rows))
        return len(rows)

    for rows in itertools.accumulate(map_blocks(add, blocks, num_threads)):
        note(rows)


def map_blocks(
    function: Callable[[RowBlock], Result], blocks: Iterable[RowBlock], num_threads: int
) -> Iterator[Result]:
    """Apply a function to blocks in threads of this process, in which torch itself uses no further ones."""
    with one_thread_each():
        yield from prefetch(function, blocks, threads=_pool(num_threads), most=2 * num_threads)


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Return this process's threads for all passes: memory of a thread that ended would not be used again."""
    return ThreadPoolExecutor(num_threads, "fit_gaussians")


def _make_worker(
    embeddings: Artifact, settings: PassSettings, note: Callable[[int], None]
) -> Callable[[list[str]], Moments]:
    def work(shards: list[str]) -> Moments:
        give_back_freed_memory()
        one_pass = Pass(settings.state, settings.rows, settings.kind, last=settings.last)
        size = one_pass.rows_at_once
        blocks = itertools.chain.from_iterable(image_row_blocks(embeddings, shard, size) for shard in shards)
        add_up(one_pass, blocks, torch.get_num_threads(), note)
        if not math.isfinite(one_pass.total.energy):
            for shard in shards:
                load_image_rows(embeddings, shard)  # raises the error that names the shard
        return one_pass.total

    return work


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch use no further threads in this one and in those that begin: blocks are spread over them instead.

    Much of a block's work is no product and stays on one thread however many torch has; and what one thread computes
    does not depend on how many there are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def give_back_freed_memory() -> None:
    """Give back what glibc keeps of freed matrices: with matrices of many sizes, as much as those in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
