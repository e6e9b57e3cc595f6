"""Checksums of files and records, and what they find."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.storage.checksums import BLOCK, FileSum, sealed, unsealed


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 5000])
def test_a_file_and_its_content_have_one_checksum_as_written(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "a").write_bytes(content)
    found = FileSum.of(tmp_path / "a", block=100)
    assert found == FileSum.of_bytes(content, block=100)
    whole = FileSum.of(tmp_path / "a")
    assert whole == FileSum.of_bytes(content) == FileSum.parse(str(whole))
    assert len(found.blocks) == max(1, -(-size // 100))
    assert found.difference(tmp_path / "a", may_sample=False) is None
    assert found.difference_of_bytes(content) is None


def test_a_known_checksum_stays_what_it_is() -> None:
    assert BLOCK == 64 << 20
    assert str(FileSum.of_bytes(b"")) == "0 99aa06d3014798d86001c324468d497f"  # as the reference implementation says


@pytest.mark.parametrize("at", [0, 150, 4999])
def test_any_flipped_bit_is_found_and_said_where(tmp_path: Path, at: int) -> None:
    content = bytearray(5000)
    expected = FileSum.of_bytes(bytes(content), block=100)
    content[at] ^= 0x10
    (tmp_path / "a").write_bytes(content)
    assert expected.difference(tmp_path / "a", may_sample=False) == f"other bytes from {at // 100 * 100} on"


def test_other_sizes_and_missing_files_are_found(tmp_path: Path) -> None:
    expected = FileSum.of_bytes(b"content")
    assert expected.difference(tmp_path / "a", may_sample=True) == "no file"
    for content in (b"", b"con", b"contents"):
        (tmp_path / "a").write_bytes(content)
        assert expected.difference(tmp_path / "a", may_sample=True) == f"{len(content)} bytes"
        assert expected.difference_of_bytes(content) == f"{len(content)} bytes"


def test_of_a_huge_file_both_ends_and_some_blocks_between_are_read(tmp_path: Path) -> None:
    content = bytearray(100_000)  # a thousand blocks
    expected = FileSum.of_bytes(bytes(content), block=100)
    for at in (0, 99_999):
        (tmp_path / "a").write_bytes(bytes(content[:at]) + b"x" + bytes(content[at + 1 :]))
        assert expected.difference(tmp_path / "a", may_sample=True) is not None
    (tmp_path / "a").write_bytes(bytes(100) + b"x" * 99_800 + bytes(100))
    assert expected.difference(tmp_path / "a", may_sample=True) is not None  # most blocks: found by chance
    (tmp_path / "a").write_bytes(bytes(50_000) + b"x" + bytes(49_999))
    assert expected.difference(tmp_path / "a", may_sample=False) == "other bytes from 50000 on"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=8).filter(lambda name: name != "seal"), _JSON, max_size=4))
def test_a_record_is_read_as_it_was_sealed(record: dict[str, object]) -> None:
    files = {"a/b.bin": FileSum.of_bytes(b"x"), "c": FileSum.of_bytes(b"")}
    written = json.dumps(sealed(record, files), indent=1, sort_keys=True)
    assert unsealed(json.loads(written)) == (record, files)


def test_keys_that_are_numbers_are_sealed_as_they_are_read() -> None:
    written = json.dumps(sealed({"counts": {10: 1, 2: 2}}, {}), sort_keys=True)
    assert unsealed(json.loads(written)) == ({"counts": {"10": 1, "2": 2}}, {})


def test_any_change_of_a_record_is_found() -> None:
    written = sealed({"rows": 16, "failures": {"http_404": 2}}, {"a": FileSum.of_bytes(b"x")})
    other = json.loads(json.dumps(written).replace("16", "17"))
    moved = written | {"seal": written["seal"] | {"files": {"b": written["seal"]["files"]["a"]}}}
    for changed in (other, moved, written | {"more": 1}, {**written, "seal": {}}):
        with pytest.raises(ValueError, match="checksum"):
            unsealed(changed)
    assert unsealed({"rows": 16}) == ({"rows": 16}, None)  # an earlier version wrote it
