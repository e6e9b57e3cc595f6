"""Paths in a config: a file that a cache holds under its checksum is of the format that the link's name says."""

from pathlib import Path

import pytest

from stages.download_shards.config import UrlListSource
from stages.download_shards.sources.url_list import list_format


def list_at(folder: Path, content: str, name: str = "list.csv") -> Path:
    """Return a link to a list, as a hub's cache has it."""
    blob = folder / "blobs" / str(abs(hash(content)))
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_text(content)
    link = folder / "snapshots" / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(blob)
    return link


def test_a_link_to_a_file_keeps_its_name_and_counts_by_the_file(tmp_path: Path) -> None:
    link = list_at(tmp_path, "url\nhttp://a.org/1.jpg\n")
    source = UrlListSource(kind="url_list", path=str(link))
    assert source.path == str(link)
    assert list_format(source) == "csv"
    plain = tmp_path / "plain.csv"
    plain.write_text("url\nhttp://a.org/1.jpg\n")
    identity = source.identity()
    assert identity == UrlListSource(kind="url_list", path=str(plain)).identity()
    list_at(tmp_path, "url\nhttp://b.org/1.jpg\n")
    assert source.identity() != identity


@pytest.mark.parametrize("is_folder", [False, True])
def test_other_links_are_resolved(tmp_path: Path, is_folder: bool) -> None:
    target = tmp_path / "target.csv"
    target.mkdir() if is_folder else target.write_text("url\n")
    link = tmp_path / ("link" if is_folder else "link.csv")
    link.symlink_to(target)
    assert UrlListSource(kind="url_list", path=str(link)).path == str(target)
