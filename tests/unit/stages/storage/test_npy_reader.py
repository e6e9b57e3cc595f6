"""Rows of .npy files, read without mapping them."""

from pathlib import Path

import numpy as np
import pytest

from stages.storage.npy_reader import NpyReader


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4"])
def test_rows_are_those_of_numpy(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=(11, 3)).astype(dtype)
    np.save(tmp_path / "rows.npy", values)
    stored = NpyReader.of(tmp_path / "rows.npy")
    assert (len(stored), stored.shape, stored.dtype) == (11, (11, 3), values.dtype)
    assert np.array_equal(stored.read(0, 4), values[:4])
    assert np.array_equal(stored.read(8, 4), values[8:])
    assert np.array_equal(stored.pick([10, 0, 10]), values[[10, 0, 10]])


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((3, 4)).T, np.zeros((2, 2, 2))])
def test_what_is_not_rows_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "rows.npy", values)
    with pytest.raises(ValueError, match=r"rows.npy: found .* expected rows"):
        NpyReader.of(tmp_path / "rows.npy")


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((100, 4)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="greater than file size"):
        NpyReader.of(path)
