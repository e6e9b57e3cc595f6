"""The samples of a tar as webdataset defines them: the files whose names are equal up to the first dot.

A file's key is its name up to the first dot after the last slash, its suffix what follows that dot, in lower case. The
files of one sample may lie anywhere in the tar. Of a repeated file the first counts, as of several images of a sample.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from stages.contract.errors import FailureCause, ItemFault
from stages.contract.parsing import parsing
from stages.storage.tars import Member, walk

IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"),
    *("jfif", "jpe", "avif", "heic", "heif", "jp2"),
)
MOST_MEMBERS = 1_000_000  # and as many times 256 bytes of names: what is held in memory of one tar
_BYTES_OF_MEMBER = 256
_META = re.compile(r"__[^/]*__(?:$|/)")

Span = tuple[int, int]
"""Offset and size of a file in its tar."""
Files = Mapping[str, Span | FailureCause]
"""By suffix, where each file of a sample lies, or why it cannot be read."""


@dataclass
class TarIndex:
    """The samples by key, in the order of their first files, and what belongs to none."""

    samples: dict[str, dict[str, Span | FailureCause]] = field(default_factory=dict)
    skipped: list[tuple[FailureCause, str]] = field(default_factory=list)
    """Cause and name of each file that belongs to no sample, or to one that has it already."""
    fault: ItemFault | None = None
    """Why the tar could not be read to its end."""


def index_tar(file: IO[bytes]) -> TarIndex:
    """Read the headers of a seekable tar."""
    index, left = TarIndex(), MOST_MEMBERS * _BYTES_OF_MEMBER
    try:
        for member in _guarded(file):
            left -= _BYTES_OF_MEMBER + len(member.name)
            if left < 0:
                raise ItemFault(FailureCause.DAMAGED_TAR, "tar is damaged from here on: it has too many members")
            _add(index, member)
    except ItemFault as fault:
        index.fault = fault
    return index


def _guarded(file: IO[bytes]) -> Iterator[Member]:
    with parsing(FailureCause.DAMAGED_TAR):
        yield from walk(file)


def _add(index: TarIndex, member: Member) -> None:
    key, suffix = split_name(member.name)
    if not suffix or member.fault is FailureCause.BAD_NAME:
        index.skipped.append((member.fault or _cause_of(member.name), member.name))
        return
    files = index.samples.setdefault(key, {})
    if suffix in files:
        index.skipped.append((FailureCause.REPEATED_MEMBER, member.name))
    else:
        files[suffix] = member.fault or (member.offset, member.size)


def _cause_of(name: str) -> FailureCause:
    is_hidden = name.rpartition("/")[2].startswith(".")
    return FailureCause.HIDDEN_FILE if is_hidden else FailureCause.NO_IMAGE_FILE


def split_name(name: str) -> tuple[str, str]:
    """Return key and suffix of a file; a hidden file and one without a suffix belong to no sample: the suffix is "".

    webdataset's own rule is a regular expression that looks at all slashes of a name once for each of them.
    """
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    if not stem or not suffix or _META.match(name) or _is_broken(folder + slash):
        return name, ""
    return f"{folder}{slash}{stem}", suffix.lower()


def _is_broken(folder: str) -> bool:
    """Return whether a line of a folder's name ends, and there is a dot behind the last slash before: no sample's."""
    line, end, _ = folder.partition("\n")
    return bool(end) and "." in folder[line.rfind("/") + 1 :]


def image_suffixes(files: Files) -> tuple[str | None, list[str]]:
    """Return the suffix of a sample's image (None: it has none, or none of several is plain) and those of the others.

    The image is key.jpg, or else the first of :data:`IMAGE_SUFFIXES` that there is. A suffix with further dots
    (key.mask.png) is another file of the sample, but where it is the only image: key.v2.jpg.
    """
    plain = [suffix for suffix in IMAGE_SUFFIXES if suffix in files]
    if plain:
        return plain[0], plain[1:]
    dotted = dotted_images(files)
    return (dotted[0], []) if len(dotted) == 1 else (None, dotted)


def dotted_images(files: Files) -> list[str]:
    """Return the suffixes of a sample's images that have further dots, sorted."""
    return sorted(suffix for suffix in files if "." in suffix and suffix.rpartition(".")[2] in IMAGE_SUFFIXES)


def caption_suffix(files: Files, image: str | None, kind: str) -> str | None:
    """Return the suffix of a sample's txt or json file: key.v2.txt for key.v2.jpg if there is one, or else key.txt."""
    stem = (image or "").rpartition(".")[0]
    beside = f"{stem}.{kind}" if stem else kind
    return next((suffix for suffix in (beside, kind) if suffix in files), None)


def clean_key(key: str) -> str:
    """Return a key as it may be recorded: valid text on one line that leads nowhere."""
    text = key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    parts = text.split("/")
    return "/".join(part for part in parts if part not in ("", "..")) if ".." in parts or not parts[0] else text


def read_file(tar: IO[bytes], span: Span) -> bytes:
    """Return the content of a file of an open tar."""
    offset, size = span
    tar.seek(offset)
    return tar.read(size)
