"""Read rows of a .npy file by plain reads: mapped pages would count as this process's memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

Rows = Float[np.ndarray, "rows width"]


@dataclass(frozen=True)
class NpyReader:
    """A matrix on disk, row by row."""

    path: Path
    offset: int  # bytes before the first row
    dtype: np.dtype
    shape: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> "NpyReader":
        """Read the header only."""
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.ndim != 2 or not mapped.flags.c_contiguous:
            raise ValueError(f"{path}: found an array of shape {list(mapped.shape)}, or in columns: expected rows")
        return cls(path, mapped.offset, mapped.dtype, mapped.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, first: int, count: int) -> Rows:
        """Read ``count`` rows from ``first`` on, fewer at the end."""
        width = self.shape[1]
        count = min(count, len(self) - first)
        start = self.offset + first * width * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count * width, offset=start).reshape(count, width)

    def pick(self, rows: Int[np.ndarray, " picked"] | Iterable[int]) -> Rows:
        """Read the rows of these numbers."""
        rows = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        with self.path.open("rb", buffering=0) as file:
            for row, target in zip(rows, found, strict=True):
                file.seek(self.offset + int(row) * target.nbytes)
                file.readinto(target.view(np.uint8))
        return found
