"""Trees at chained addresses: the files of an archive by the names that they have in it."""

import shutil
from pathlib import Path

import fsspec
import pytest

from stages.download_shards.sources.trees import RemoteTree


@pytest.mark.parametrize(("top", "inside"), [("zip://", ""), ("zip://pics", "pics/"), ("zip://pics/", "pics/")])
def test_files_of_an_archive_have_their_whole_names(tmp_path: Path, top: str, inside: str) -> None:
    files = {"abc.png": b"one", "metadata.csv": b"two", "sub/d.png": b"three"}
    for name, content in files.items():
        path = tmp_path / "in" / inside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "in")
    tree = RemoteTree(f"{top}::{archive}")
    assert tree.exists()
    names = [found.name for found in tree.walk()]
    assert names == sorted(files)
    assert dict(zip(names, tree.read(names, 100), strict=True)) == files
    with fsspec.open(tree.address("sub/d.png")) as file:
        assert file.read() == b"three"
