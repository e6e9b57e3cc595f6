"""Passes over all shards, and the sample that the first means come from."""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cluster.mapping import Mapper, WorkerResources
from models.gaussians import Kind, Moments, Nearest, Pass, rows_at_once
from stages.ahead import map_ahead
from stages.artifacts import Artifact
from stages.embeddings import RowBlock, image_row_blocks, load_image_rows, pick_image_rows

NUM_GROUPS = 64  # shards are added up in this many groups, whatever the number of workers: same sums, same result


@dataclass(frozen=True)
class PassSettings:
    """What one pass is about; it travels once to each worker."""

    means: Float[Tensor, "gauss embed"]
    kind: Kind
    last: bool


@dataclass(frozen=True)
class Passes:
    """Makes passes over all shards of embeddings, on the workers of a map."""

    embeddings: Artifact
    shards: list[str]
    kind: Kind
    mapper: Mapper
    resources: WorkerResources

    def __call__(self, means: Float[Tensor, "gauss embed"], last: bool) -> Moments:
        """Make one pass; sums are added in the groups' order, whichever is ready first.

        Raises:
            InputFault: an embedding is not finite.
        """
        num_groups = min(NUM_GROUPS, len(self.shards))
        groups = [(number, self.shards[number::num_groups]) for number in range(num_groups)]
        make_worker = functools.partial(_make_worker, self.embeddings, PassSettings(means, self.kind, last))
        total = Moments.zero(*means.shape, deviations=last)
        for moments in _in_order(self.mapper(make_worker, groups, self.resources)):
            total += moments
        return total


def take_sample(
    embeddings: Artifact, rows: Mapping[str, int], size: int, seed: int
) -> Float[np.ndarray, "sample embed"]:
    """Draw rows evenly from all embeddings, in their order; all of them if there are no more than ``size``.

    The rows are cut into ``size`` runs of equal length (to one row), and one row is drawn from each: memory and time
    are those of the sample, however many rows there are.
    """
    total = sum(rows.values())
    size = min(size, total)
    edges = np.linspace(0, total, size + 1).astype(np.int64)
    chosen = edges[:-1] + np.floor(np.random.default_rng(seed).random(size) * np.diff(edges)).astype(np.int64)
    sample, first = None, 0
    for shard, count in rows.items():
        low, high = np.searchsorted(chosen, (first, first + count))
        if high > low:
            picked = pick_image_rows(embeddings, shard, chosen[low:high] - first)
            if sample is None:
                sample = np.empty((size, picked.shape[1]), dtype=np.float32)
            sample[low:high] = picked
        first += count
    assert sample is not None, "the caller has seen that there are embeddings"
    return sample


def _make_worker(
    embeddings: Artifact, settings: PassSettings
) -> Callable[[tuple[int, list[str]]], tuple[int, Moments]]:
    nearest, size = Nearest(settings.means), rows_at_once(*settings.means.shape)
    num_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_threads)  # for all groups: each thread that begins takes memory of its own for good

    def add_up(group: tuple[int, list[str]]) -> tuple[int, Moments]:
        number, shards = group
        one_pass = Pass(nearest, settings.kind, last=settings.last)

        def assign(block: RowBlock) -> tuple[Tensor, Tensor]:
            return one_pass.assign(torch.from_numpy(block.load()))

        blocks = itertools.chain.from_iterable(image_row_blocks(embeddings, shard, size) for shard in shards)
        with _one_thread_each():
            for rows, index in map_ahead(assign, blocks, threads=pool, most=num_threads):
                one_pass.total.add_rows(rows, index)
        if not math.isfinite(one_pass.total.energy):
            for shard in shards:
                load_image_rows(embeddings, shard)  # says what is wrong
        return number, one_pass.total

    return add_up


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
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


def _in_order(results: Iterator[tuple[int, Moments]]) -> Iterator[Moments]:
    waiting: dict[int, Moments] = {}
    following = 0
    for number, moments in results:
        waiting[number] = moments
        while following in waiting:
            yield waiting.pop(following)
            following += 1
