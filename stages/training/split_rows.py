"""The experiment's split over the images of shards: what is held out is kept in memory, what is trained on counted."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int

from stages.formats.splits import SplitConfig, SplitRecord, split_numbers

Indices = Int[np.ndarray, "rows 2"]  # (shard, row)


class SplitRows:
    """Which images of which shards are in which part."""

    def __init__(self, keys: Iterable[Sequence[str]]) -> None:
        """Take the keys of each shard's images; they are read shard by shard."""
        self._keys = keys

    def divide(self, config: SplitConfig, *, least: int = 1) -> SplitRecord:
        """Find the parts, and return what was found.

        Where fewer than ``least`` images are left to validate on, those of the next numbers are added to them, as far
        as half of all that are not for the test. Held in memory are numbers and keys of these and of what is put aside.
        """
        limit, sizes, near = config.test + config.validation, [], []
        for shard, keys in enumerate(self._keys):
            numbers = split_numbers(keys, config)
            sizes.append(len(keys))
            aside = np.flatnonzero(numbers < limit).tolist()
            above = np.where(numbers < limit, np.inf, numbers)
            aside += [row for row in np.argsort(above, kind="stable")[:least].tolist() if above[row] < np.inf]
            near += [(float(numbers[row]), shard, row, keys[row]) for row in aside]
        near.sort()
        test = [one for one in near if one[0] < config.test]
        rest = near[len(test) :]
        found = sum(one[0] < limit for one in rest)
        wanted = max(found, min(least, (sum(sizes) - len(test)) // 2))
        validation = rest[:wanted]
        self.validation: Indices = _indices(validation)
        """Those to validate on, by number: adding images leaves the order of the others."""
        self.validation_keys = [one[3] for one in validation]
        self._held = [np.sort(np.array(rows, dtype=np.int64)) for rows in _rows_by_shard([*test, *validation], sizes)]
        self.train_sizes = [size - len(held) for size, held in zip(sizes, self._held, strict=True)]
        return SplitRecord(
            **config.model_dump(),
            train_images=sum(self.train_sizes),
            validation_images=len(validation),
            test_images=len(test),
            keys=digest_of_keys([one[3] for one in [*test, *validation]]),
            too_few=wanted > found,
        )

    def is_train(self) -> Bool[np.ndarray, " images"]:
        """Tell of each image of all shards, one after another, whether it is trained on."""
        sizes = [size + len(held) for size, held in zip(self.train_sizes, self._held, strict=True)]
        masks = [np.isin(np.arange(size), held, invert=True) for size, held in zip(sizes, self._held, strict=True)]
        return np.concatenate([np.zeros(0, dtype=bool), *masks])

    def train(self, indices: Indices) -> Indices:
        """Return the (shard, row) indices of images that are counted among those trained on alone."""
        rows = indices.copy()
        for shard in np.unique(indices[:, 0]):
            here, held = indices[:, 0] == shard, self._held[shard]
            # The n-th image trained on stands behind all held rows h of which fewer than h - n others stand before.
            rows[here, 1] += np.searchsorted(held - np.arange(len(held)), indices[here, 1], side="right")
        return rows


def digest_of_keys(keys: Iterable[str]) -> str:
    """Return a digest of a set of keys."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]


def _indices(found: Sequence[tuple[float, int, int, str]]) -> Indices:
    return np.array([one[1:3] for one in found], dtype=np.int64).reshape(-1, 2)


def _rows_by_shard(found: Sequence[tuple[float, int, int, str]], sizes: Sequence[int]) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in sizes]
    for _, shard, row, _ in found:
        rows[shard].append(row)
    return rows
