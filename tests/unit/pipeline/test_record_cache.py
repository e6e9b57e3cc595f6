"""Records of a remote store are kept by version; whatever happens to the file, they are only read again."""

from pathlib import Path

import pytest

from pipeline.record_cache import RecordCache, version_of


def test_a_record_is_kept_as_long_as_its_version_is_the_same(tmp_path: Path) -> None:
    cache = RecordCache(tmp_path / "new" / "records.db")
    versions = {"b/runs/x/run.json": "1", "b/runs/y/run.json": "1", "b/runs/z/run.json": None}
    assert cache.get(versions) == {}
    cache.put({"b/runs/x/run.json": b"{}", "b/runs/y/run.json": b"[]", "b/runs/z/run.json": b"0"}, versions)
    assert cache.get(versions) == {"b/runs/x/run.json": b"{}", "b/runs/y/run.json": b"[]"}
    assert cache.get(versions | {"b/runs/x/run.json": "2"}) == {"b/runs/y/run.json": b"[]"}
    cache.put({"b/runs/x/run.json": b"{1}"}, {"b/runs/x/run.json": "2"})  # y is gone
    assert cache.get({"b/runs/x/run.json": "2", "b/runs/y/run.json": "1"}) == {"b/runs/x/run.json": b"{1}"}
    assert (tmp_path / "new" / "records.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(200)])
def test_a_damaged_file_costs_nothing_but_time(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "records.db").write_bytes(content)
    cache = RecordCache(tmp_path / "records.db")
    cache.put({"x": b"{}"}, {"x": "1"})
    assert cache.get({"x": "1"}) in ({}, {"x": b"{}"})


def test_versions_are_those_of_the_content() -> None:
    first, second = ({"name": "x", "size": 3, "ETag": tag, "LastModified": "now"} for tag in ('"a"', '"b"'))
    assert version_of(first) != version_of(second)
    assert version_of(first) == version_of(first | {"LastModified": "later"})
    assert version_of({"name": "x", "size": 3}) is None
