"""Tars are walked as Python's tarfile reads them where they are whole, and end in one fault where they are not."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.contract.errors import FailureCause, ItemFault
from stages.formats.tar_samples import index_tar, split_name
from stages.storage.tars import compression_of, walk

LETTERS = st.text("ab.é/_", min_size=1, max_size=120).filter(lambda name: not name.endswith("/"))
CONTENTS = st.binary(max_size=700)


def tar_of(members: list[tuple[str, bytes]], tar_format: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(LETTERS, CONTENTS), max_size=6), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_a_whole_tar_is_read_as_tarfile_reads_it(members: list[tuple[str, bytes]], tar_format: int) -> None:
    content = tar_of(members, tar_format)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(one.name, tar.extractfile(one).read()) for one in tar if one.isfile()]
    found = [(one.name, content[one.offset : one.offset + one.size]) for one in walk(io.BytesIO(content))]
    assert found == expected


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_tar_ends_in_one_fault(data: st.DataObject) -> None:
    content = bytearray(tar_of([(f"{index}.png", b"x" * 300) for index in range(3)], tarfile.PAX_FORMAT)[:4096])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    index = index_tar(io.BytesIO(bytes(content[:cut])))
    assert index.fault is None or index.fault.cause is FailureCause.DAMAGED_TAR
    for files in index.samples.values():
        for span in files.values():
            assert isinstance(span, FailureCause) or 0 <= span[0] <= span[0] + span[1] <= cut


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=3000))
def test_bytes_of_any_kind_are_no_tar(content: bytes) -> None:
    index = index_tar(io.BytesIO(content))
    assert index.fault is not None or not index.samples


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_characters="\n"), max_size=30))
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    from webdataset.tariterators import base_plus_ext

    key, suffix = base_plus_ext(name)
    is_hidden = name.rpartition("/")[2].startswith(".")
    is_meta = name.startswith("__") and "__" in name[2:]
    if not is_hidden and not is_meta:
        assert split_name(name) == ((key, suffix.lower()) if key is not None and suffix else (name, ""))


@pytest.mark.parametrize(("head", "kind"), [(b"\x1f\x8b\x08", "gzip"), (b"BZh9", "bzip2"), (b"a.png", None)])
def test_compressed_files_are_known_by_their_first_bytes(head: bytes, kind: str | None) -> None:
    assert compression_of(head) == kind
    with pytest.raises(ItemFault, match="tar is damaged from here on"):
        list(walk(io.BytesIO(head + b"x" * 100)))
