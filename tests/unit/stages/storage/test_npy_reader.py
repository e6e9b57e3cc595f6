"""Rows of .npy files, read without mapping them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.contract.errors import ArtifactError
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
    with pytest.raises(ArtifactError, match=r"rows.npy: found .* expected rows"):
        NpyReader.of(tmp_path / "rows.npy")


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((100, 4)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="greater than file size"):
        NpyReader.of(path)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_within_its_bounds(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.ones((5, 3), dtype=np.float32))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        stored = NpyReader.of(path)
    except ArtifactError:
        return
    assert len(stored.read(0, len(stored))) == len(stored)


def test_rows_that_a_file_has_no_more_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((10, 4)))
    stored = NpyReader.of(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="found fewer than 10 rows"):
        stored.pick([9])
