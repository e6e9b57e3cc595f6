"""Tars are walked as Python's tarfile reads them where they are whole, and end in one fault where they are not."""

import io
import re
import tarfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from stages.contract.errors import ItemFault
from stages.formats.tar_samples import split_name
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


@pytest.mark.parametrize(
    ("name", "key", "suffix"),
    [
        ("a.jpg", "a", "jpg"),
        ("photos/a.JPG", "photos/a", "jpg"),
        ("v1.0/a.mask.png", "v1.0/a", "mask.png"),
        ("a.b/c", "a.b/c", ""),
        ("a", "a", ""),
        ("a.", "a.", ""),
        (".a.jpg", ".a.jpg", ""),
        ("x/.jpg", "x/.jpg", ""),
        ("__meta__/a.jpg", "__meta__/a.jpg", ""),
        ("ü ß.tar.gz", "ü ß", "tar.gz"),
    ],
)
def test_names_are_split_as_webdataset_splits_them(name: str, key: str, suffix: str) -> None:
    assert split_name(name) == (key, suffix)


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(st.text("ab./_\n", max_size=14))
@example("a/b\nc.d/e.jpg")
@example("a.b/c\nd/e.jpg")
@example("a.jpg\n")
def test_webdataset_splits_every_name_alike(name: str) -> None:
    key, suffix = base_plus_ext(name)
    if re.match("__[^/]*__(/|$)", name) or not suffix or key.endswith("/"):
        assert split_name(name) == (name, "")
    else:
        assert split_name(name) == (key, suffix.lower())


@pytest.mark.parametrize(("head", "kind"), [(b"\x1f\x8b\x08", "gzip"), (b"BZh9", "bzip2"), (b"a.png", None)])
def test_compressed_files_are_known_by_their_first_bytes(head: bytes, kind: str | None) -> None:
    assert compression_of(head) == kind
    with pytest.raises(ItemFault, match="tar is damaged from here on"):
        list(walk(io.BytesIO(head + b"x" * 100)))
