"""The order in which samples are seen: a pure function of the seed and the shards' sizes, without state.

An epoch visits every sample once: shards in random order, cut into windows of a bounded number of samples, and
random order within a window. So a reader needs one window's shards at a time.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from stages.contract.errors import InputFault


class SampleOrder:
    """The sample at each position of the endless sequence of samples."""

    def __init__(self, shard_sizes: Sequence[int], window_size: int, seed: int) -> None:
        """Take the number of samples of each shard, and the most samples in a window (at least one shard)."""
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.epoch_size = int(self.sizes.sum())
        if self.epoch_size == 0:
            raise InputFault("training: found no samples: expected at least one: check the stages before this one")
        self._window_size = window_size
        self._seed = seed
        self._windows = lru_cache(maxsize=2)(self._make_windows)
        self._shuffled = lru_cache(maxsize=2)(self._shuffle_window)

    def at(self, positions: Iterable[int]) -> Int[np.ndarray, "positions 2"]:
        """Return (shard, row in the shard) of each position."""
        return np.array([self._one(int(position)) for position in positions], dtype=np.int64).reshape(-1, 2)

    def _one(self, position: int) -> Int[np.ndarray, "2"]:
        epoch, offset = divmod(position, self.epoch_size)
        _, starts = self._windows(epoch)
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        row: np.ndarray = self._shuffled(epoch, window)[offset - int(starts[window])]
        return row

    def _make_windows(self, epoch: int) -> tuple[list[list[int]], Int[np.ndarray, "windows"]]:
        """Cut the epoch's shards into windows; also return the offset at which each window starts."""
        windows: list[list[int]] = []
        starts: list[int] = []
        offset = room = 0
        for shard in np.random.default_rng([self._seed, 1, epoch]).permutation(len(self.sizes)):
            size = int(self.sizes[shard])
            if size == 0:
                continue
            if size > room or not windows:
                windows.append([])
                starts.append(offset)
                room = self._window_size
            windows[-1].append(int(shard))
            offset, room = offset + size, room - size
        return windows, np.array(starts, dtype=np.int64)

    def _shuffle_window(self, epoch: int, window: int) -> Int[np.ndarray, "samples 2"]:
        shards = self._windows(epoch)[0][window]
        rows = np.concatenate([np.stack([np.full(self.sizes[s], s), np.arange(self.sizes[s])], axis=1) for s in shards])
        return np.random.default_rng([self._seed, 2, epoch, window]).permutation(rows, axis=0)
