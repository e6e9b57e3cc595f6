"""Read rows of a .npy file by plain reads: mapped pages would count as this process's memory."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from stages.contract.errors import ArtifactError
from stages.contract.parsing import parsing

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
        mapped = map_npy(path)
        if mapped.ndim != 2 or not mapped.flags.c_contiguous or mapped.dtype.kind != "f":
            raise _unusable(path, f"an array {mapped.dtype} of shape {list(mapped.shape)}, or in columns")
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
                if file.readinto(target.view(np.uint8)) != target.nbytes:
                    raise _unusable(self.path, f"fewer than {row + 1} rows")
        return found


def map_npy(path: Path) -> np.memmap[Any, Any]:
    """Return the array of a .npy file, mapped and read-only; nothing in it is unpickled."""
    with parsing(functools.partial(_unusable, path)):
        return np.lib.format.open_memmap(path, mode="r")


def _unusable(path: Path, found: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: found {found}: expected rows of numbers in a .npy file: delete that artifact and run again"
    )
