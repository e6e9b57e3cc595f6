"""The sample that first means come from: spread evenly over all embeddings, kept in a file, read in blocks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.gaussians.kmeans import Kind, KMeansState, Pass, placed
from models.gaussians.moments import Moments
from stages.contract.errors import InputFault
from stages.fit_gaussians.passes import add_up, give_back_freed_memory, map_blocks
from stages.formats.embeddings.reader import RowBlock, pick_image_rows
from stages.storage.artifact import Artifact
from stages.storage.npy_reader import NpyReader


@dataclass(frozen=True)
class SampleFile:
    """Rows of the sample as k-means uses them, on disk: a :class:`models.gaussians.initialization.Sample`."""

    reader: NpyReader
    kind: Kind
    origin: Float[Tensor, "embed"]
    scale: Float[Tensor, "embed"]
    num_threads: int
    note: Callable[[int], None]
    """Called with the number of rows of each block that was gone over."""

    def __len__(self) -> int:
        return len(self.reader)

    def map(self, function: Callable[[Float[Tensor, "rows embed"]], Tensor], size: int) -> Iterator[Tensor]:
        """Apply a function to blocks of ``size`` rows, in threads; yield the results in order."""

        def work(block: RowBlock) -> Tensor:
            return function(placed(torch.from_numpy(block.load()), self.kind))

        for found in map_blocks(work, self.row_blocks(size), self.num_threads):
            yield found
            self.note(size)

    def row_blocks(self, size: int) -> Iterator[RowBlock]:
        """Cut the rows into blocks of ``size``, not read yet."""
        for first in range(0, len(self), size):
            yield RowBlock(self.reader, first, size, None)

    def pick(self, rows: Int[Tensor, "picked"]) -> Float[Tensor, "picked embed"]:
        """Read some rows."""
        return placed(torch.from_numpy(self.reader.pick(rows.numpy())), self.kind)

    def make_pass(self, state: KMeansState, last: bool) -> Moments:
        """Make one pass over the sample."""
        give_back_freed_memory()
        one_pass = Pass(state, len(self), self.kind, last=last)
        size = one_pass.rows_at_once
        add_up(one_pass, self.row_blocks(size), self.num_threads, lambda rows: self.note(size))
        return one_pass.total


def sample_rows(
    embeddings: Artifact,
    rows: Mapping[str, int],
    path: Path,
    *,
    size: int,
    seed: int,
    kind: Kind,
    note: Callable[[int], None] = lambda rows: None,
) -> SampleFile:
    """Sample rows evenly from all embeddings into a file, in their order; all of them if there are at most ``size``.

    The rows are cut into ``size`` runs of equal length (to one row), and one row is sampled from each: time and disk
    are those of the sample, however many rows there are, and memory that of one shard's part of it. ``note`` is called
    with the number of rows of each block that was read, here and later.
    """
    total = sum(rows.values())
    size = min(size, total)
    edges = np.linspace(0, total, size + 1).astype(np.int64)
    chosen = edges[:-1] + np.floor(np.random.default_rng(seed).random(size) * np.diff(edges)).astype(np.int64)
    width, mean, squares = 0, np.float64(0), np.float64(0)
    with path.open("wb") as file:
        for picked in _pick(embeddings, rows, chosen):
            width = picked.shape[1]
            squares = squares + np.square(picked, dtype=np.float64).sum(0)
            mean = mean + placed(torch.from_numpy(picked), kind).numpy().sum(0, dtype=np.float64)
            picked.tofile(file)
            note(len(picked))
    reader = NpyReader(path, 0, np.dtype(np.float32), (size, width))
    origin, scale = torch.from_numpy(mean / size).float(), torch.from_numpy(np.sqrt(squares / size))
    return SampleFile(reader, kind, origin, scale, torch.get_num_threads(), note)


def _pick(
    embeddings: Artifact, rows: Mapping[str, int], chosen: Int[np.ndarray, " rows"]
) -> Iterator[Float[np.ndarray, "rows embed"]]:
    """Yield the chosen rows of each shard; they are numbered over all shards, ascending."""
    first = 0
    for shard, count in rows.items():
        low, high = np.searchsorted(chosen, (first, first + count))
        if high > low:
            picked = pick_image_rows(embeddings, shard, chosen[low:high] - first)
            if not np.isfinite(picked).all():
                raise InputFault(
                    f"embed_clip: image embeddings hold numbers that are not finite ({embeddings.uri}): "
                    "embed them again in float32 (embed_clip.storage: float32)"
                )
            yield picked
        first += count
