"""Damaged documents of a store, through the command line: one sentence, and no traceback."""

from pathlib import Path

import pytest

from tests.e2e.conftest import corgi


@pytest.mark.parametrize("content", [b"", b'{"format": ', b"[]", b'{"format": "1\x1b"}', b"\xff\xfe{"], ids=repr)
def test_a_damaged_store_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.json").write_bytes(content)
    done = corgi("compare", "a-1", "--store", tmp_path)
    assert done.code == 2
    assert done.err.startswith("corgi: store: ")
    assert done.err.rstrip("\n").isprintable()
