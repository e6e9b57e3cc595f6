"""What a stranger's folder of images holds, by names alone: images, caption files beside them, metadata files."""

import collections
import posixpath
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from stages.storage.walking import Found, Kind

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
CAPTION_SUFFIXES = (".json", ".txt")
#: Of files that are decoded; what is in them is seen when they are.
_SUFFIXES = ".jpg .jpeg .jpe .jfif .jif .pjpeg .pjp .png .apng .webp .bmp .dib .gif .tif .tiff .avif"
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())


def fold(name: str) -> str:
    """Return a name without regard to case and to the Unicode form."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_metadata(name: str) -> bool:
    """Whether a file describes images of its folder and those below it."""
    return posixpath.basename(name).lower() in METADATA


def is_image(found: Found) -> bool:
    """Whether a name is that of an image; what it stands for is seen when it is read."""
    suffix = posixpath.splitext(found.name)[1].lower()
    kinds = {Kind.FILE, Kind.OUTSIDE, Kind.SPECIAL}
    return suffix in IMAGE_SUFFIXES and not found.is_folder and found.kind in kinds


def captions_beside(images: Sequence[str], caption_files: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the files beside each image that has some, by their suffixes.

    They have its name, in another case or Unicode form where there is but one of these, and where no other image has
    the name in a form of its own: of IMG_1.JPG and img_1.jpg, two images, img_1.txt describes the second.
    """
    exact: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    folded: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for name in caption_files:
        stem, suffix = posixpath.splitext(name)
        exact[stem, suffix.lower()].append(name)
        folded[fold(stem), suffix.lower()].append(name)
    stems = dict.fromkeys(posixpath.splitext(image)[0] for image in images if exact)
    forms = collections.Counter(map(fold, stems))
    found: dict[str, dict[str, str]] = {}
    for image in images if exact else ():
        stem = posixpath.splitext(image)[0]
        alike = folded if forms[fold(stem)] == 1 else {}
        for suffix in CAPTION_SUFFIXES:
            same = exact.get((stem, suffix)) or alike.get((fold(stem), suffix), [])
            name = same[0] if len(same) == 1 else f"{stem}{suffix}"
            if name in same:
                found.setdefault(image, {})[suffix] = name
    return found


def read_names(found: Iterable[Found]) -> list[str]:
    """Return the names of all that is read of a folder: images, files beside them, metadata files."""
    listed = sorted(found, key=lambda one: one.name)
    images = [one.name for one in listed if is_image(one)]
    files = [one.name for one in listed if one.kind is Kind.FILE and not is_image(one)]
    metadata = [name for name in files if is_metadata(name)]
    texts = [name for name in files if posixpath.splitext(name)[1].lower() in CAPTION_SUFFIXES]
    beside: Mapping[str, Mapping[str, str]] = captions_beside(images, texts)
    return [*images, *metadata, *(name for names in beside.values() for name in names.values())]
