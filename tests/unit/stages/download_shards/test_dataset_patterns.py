"""Patterns of a README.md match what fsspec's own glob finds, and no pattern takes for ever."""

import time
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.download_shards.sources.dataset_patterns import matches, pattern_below

PARTS = st.sampled_from(["a", "b", "ab", "train", "train-0.parquet", "train-1.parquet", "a.parquet", "[", "a-b", "x y"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
PIECES = st.sampled_from(
    ["a", "b", "train", "-", ".parquet", "*", "?", "[ab]", "[!a]", "[a-t]", "[", "]", "0", ".", "[!"]
)
OF_PART = st.one_of(PARTS, st.just("*"), st.just("**"), st.lists(PIECES, min_size=1, max_size=4).map("".join))
PATTERNS = st.lists(OF_PART, min_size=1, max_size=5).map("/".join)


def test_patterns_match_as_globs_of_a_file_system_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    fs = fsspec.filesystem("memory")
    root = f"/{tmp_path_factory.mktemp('globs').name}"

    @settings(max_examples=200, deadline=None)
    @given(names=st.sets(NAMES, min_size=1, max_size=6), pattern=PATTERNS)
    def check(names: set[str], pattern: str) -> None:
        parts = pattern.split("/")
        if any(part in {".", ".."} or ("**" in part and part != "**") for part in parts):
            return
        if any("[!" in part for part in parts) and "**" in parts:
            return  # fsspec lets [!a] take a slash there
        files = {name for name in names if not any(other.startswith(f"{name}/") for other in names)}
        for name in files:
            fs.pipe(f"{root}/{name}", b"")
        try:
            found = {path.removeprefix(f"{root}/") for path in fs.glob(f"{root}/{pattern}")} & files
        finally:
            fs.rm(root, recursive=True)
        assert {name for name in files if matches(name, [pattern_below("", pattern)])} == found

    check()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.parquet", ["a.parquet"]),
        ("**/*.parquet", ["a.parquet", "x/a.parquet", "x/y/a.parquet"]),
        ("**", ["a.parquet", "x/a.parquet", "x/y/a.parquet"]),
        ("x/**", ["x/a.parquet", "x/y/a.parquet"]),
        ("x/**/a.parquet", ["x/a.parquet", "x/y/a.parquet"]),
        ("*/**/a.parquet", ["x/a.parquet", "x/y/a.parquet"]),
    ],
)
def test_an_asterisk_stays_within_a_folder_and_two_take_any_number(
    tmp_path: Path, pattern: str, names: list[str]
) -> None:
    every = ["a.parquet", "x/a.parquet", "x/y/a.parquet"]
    assert [name for name in every if matches(name, [pattern_below("", pattern)])] == names
    for name in every:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = fsspec.filesystem("file").glob(f"{tmp_path}/{pattern}")
    assert sorted(path for path in found if Path(path).is_file()) == sorted(f"{tmp_path}/{name}" for name in names)


def test_a_pattern_counts_from_the_folder_of_its_config() -> None:
    assert [pattern_below(folder, "./*.parquet") for folder in ("", ".", "en", "./en/")] == [
        "*.parquet", "*.parquet", "en/*.parquet", "en/*.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize("pattern", ["data/train**", "**.parquet", "a/b**c/d"])
def test_two_asterisks_beside_other_characters_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\*\* is allowed as a whole part of a path"):
        pattern_below("", pattern)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("a" * 200, "*a" * 100 + "b"), ("a/" * 200 + "a", "**/a/" * 100 + "b"), ("a/" * 99, "**/" * 99)],
)
def test_no_pattern_takes_for_ever(name: str, pattern: str) -> None:
    start = time.process_time()
    matches(name, [pattern])
    assert time.process_time() - start < 5
