"""What a folder tree holds: images, the caption files beside them, metadata files, and what is skipped and why."""

import hashlib
import posixpath
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from stages.contract.errors import FailureCause, ItemFault
from stages.contract.parsing import is_text, shown
from stages.formats.image_folders import CAPTION_SUFFIXES, METADATA, captions_beside, is_image
from stages.formats.source_records import Counter
from stages.storage.walking import Found, Kind

#: Images that are not decoded, because no safe decoder is at hand, or because they are programs.
_OTHER_IMAGES = """
.heic .heif .jp2 .j2k .jpx .jxl .svg .svgz .psd .xcf .ai .eps .ps .pdf .ico .icns .tga .dds .blp .ppm .pgm .pbm .pnm
.pcx .exr .hdr .raw .dng .cr2 .cr3 .nef .arw .orf .rw2
"""
_SKIPS = {
    Kind.HIDDEN: FailureCause.HIDDEN_FILE,
    Kind.REPEATED: FailureCause.LINKED_FOLDER,
    Kind.UNREADABLE: FailureCause.UNREADABLE_FILE,
    Kind.OUTSIDE: FailureCause.OUTSIDE_FOLDER,
    Kind.SPECIAL: FailureCause.NOT_A_FILE,
}
_SHOWN = 1000  # characters of a name that cannot be used as it is


@dataclass
class Listing:
    """The names of a tree by what they are."""

    found: int = 0
    """All names, but for folders that are entered."""
    images: list[str] = field(default_factory=list)
    lost: dict[str, ItemFault] = field(default_factory=dict)
    """Images that cannot be read by their names, as messages show these."""
    metadata: list[str] = field(default_factory=list)
    captions: dict[str, dict[str, str]] = field(default_factory=dict)
    """The files beside an image, by its name and their suffixes."""
    skips: Counter = field(default_factory=Counter)
    used: dict[str, int] = field(default_factory=dict)


def list_tree(found: Iterable[Found]) -> Listing:
    """Sort everything by what it is; all in the order of the names."""
    listing, caption_files, badly_named = Listing(), list[str](), list[str]()
    for one in sorted(found, key=lambda one: one.name):
        listing.found += 1
        suffix = posixpath.splitext(one.name)[1].lower()
        if is_image(one) and not _is_good(one.name):
            badly_named.append(one.name)
        elif is_image(one):
            listing.images.append(one.name)
        elif one.kind is not Kind.FILE:
            listing.skips.add(_SKIPS[one.kind], one.name, "folder" if one.is_folder else suffix)
        elif not _is_good(one.name):
            listing.skips.add(FailureCause.BAD_NAME, one.name, suffix)
        elif posixpath.basename(one.name).lower() in METADATA:
            listing.metadata.append(one.name)
        elif suffix in CAPTION_SUFFIXES:
            caption_files.append(one.name)
        else:
            is_other = suffix in _OTHER_IMAGES.split()
            cause = FailureCause.UNSUPPORTED_FORMAT if is_other else FailureCause.NO_IMAGE_FILE
            listing.skips.add(cause, one.name, suffix or "no suffix")
    _lose(listing, badly_named)
    _assign_captions(listing, caption_files)
    listing.used = {"caption files": 0, "metadata files": len(listing.metadata)} | listing.used
    listing.used = {what: count for what, count in listing.used.items() if count}
    return listing


def _lose(listing: Listing, names: list[str]) -> None:
    """Count images with bad names, each by a name of its own: as messages show it, and a hash where that is taken."""
    taken = set(listing.images)
    for name in names:
        label = shown(name, _SHOWN)
        if label in taken:  # which no image's name is with more behind its suffix
            label += f" ({hashlib.blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()})"
        taken.add(label)
        listing.lost[label] = ItemFault(FailureCause.BAD_NAME)
    assert len(listing.lost) == len(names)


def _assign_captions(listing: Listing, caption_files: list[str]) -> None:
    """Find the files beside each image."""
    listing.captions = captions_beside(listing.images, caption_files)
    used = {name for names in listing.captions.values() for name in names.values()}
    listing.used["caption files"] = len(used)
    for name in caption_files:
        if name not in used:
            suffix = posixpath.splitext(name)[1].lower()
            listing.skips.add(FailureCause.CAPTION_WITHOUT_IMAGE, name, suffix)


def _is_good(name: str) -> bool:
    """Return whether a name is a text without control characters."""
    return name.isprintable() or (is_text(name) and not any(unicodedata.category(one) == "Cc" for one in name))
