"""Look at images before an experiment is written: how many, how large, with which captions, and what repeats."""

import collections
import hashlib
import statistics
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.decoders.bucket_fit import cropped_fraction, nearest_buckets
from models.decoders.buckets import Size
from pipeline.errors import UsageError
from stages.contract.errors import ItemFault, StageError
from stages.contract.texts import one_line
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.sources.base import Entry, Parts, Source
from stages.download_shards.sources.rows import RowPart

_ENTRIES_PER_PART = 50
_MOST_PARTS = 40
_MOST_TARS = 4  # a tar is read whole
_SIDES = ("left", "right")
_MOST_LETTERS = 200  # of a caption, for its script


@dataclass
class Survey:
    """What was found; of large sources in a part of the entries, evenly spread."""

    entries: int
    """In all, as far as that is known without reading everything; else those looked at."""
    looked_at: int = 0
    captioned: int = 0
    captions: int = 0
    words: list[int] = field(default_factory=list)
    with_sides: int = 0
    """Captions that name left or right."""
    scripts: collections.Counter[str] = field(default_factory=collections.Counter)
    shorter_sides: list[int] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    """Width by height."""
    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    duplicates: int = 0
    """Images whose bytes are another's, of those looked at."""

    @property
    def is_whole(self) -> bool:
        """Whether all entries were looked at."""
        return self.looked_at >= self.entries

    @property
    def estimated_captioned(self) -> int:
        """How many entries have a caption, in all."""
        return round(self.captioned * self.entries / max(self.looked_at, 1))

    @property
    def median_side(self) -> int | None:
        """Pixels of the shorter side of half of the images; None: no image was looked at."""
        return round(statistics.median(self.shorter_sides)) if self.shorter_sides else None

    @property
    def small_side(self) -> int | None:
        """Pixels of the shorter side that nine in ten images have at least."""
        found = sorted(self.shorter_sides)
        return found[len(found) // 10] if found else None

    @property
    def main_script(self) -> str:
        """The script of most captions, by Unicode's name; "" where there is none."""
        return self.scripts.most_common(1)[0][0] if self.scripts else ""

    @property
    def uncommon_shapes(self) -> float:
        """Fraction of the images of which a square shows less than two thirds."""
        return sum(not 2 / 3 <= ratio <= 3 / 2 for ratio in self.ratios) / max(len(self.ratios), 1)

    def cropped(self, sizes: Sequence[Size]) -> float:
        """Return the mean fraction of an image's area that does not fit into the nearest of these sizes."""
        if not self.ratios:
            return 0.0
        heights = [1.0] * len(self.ratios)
        nearest = nearest_buckets(self.ratios, heights, sizes)
        return float(cropped_fraction(self.ratios, heights, [sizes[number] for number in nearest]).mean())


def survey(source: dict[str, Any]) -> Survey:
    """Look at a source; no address is fetched.

    Raises:
        UsageError: it cannot be read.
    """
    from stages.download_shards.sources.registry import make_source

    try:
        config = DownloadShardsConfig.model_validate({"source": source, "rows_per_shard": _ENTRIES_PER_PART})
        opened = make_source(config)
        with opened.parts() as parts:
            return _read(opened, parts, config)
    except StageError as error:
        raise UsageError(f"init: {one_line(error, 400)}") from None


def _read(opened: Source, parts: Parts, config: DownloadShardsConfig) -> Survey:
    is_list, is_tars = config.source.kind == "url_list", config.source.kind == "webdataset"
    chosen = _spread(parts.parts, _MOST_TARS if is_tars else _MOST_PARTS)
    found = Survey(0)
    seen: set[bytes] = set()
    for part in chosen:
        for row, content in _rows(part) if is_list else _images(opened, part):
            found.looked_at += 1
            _note_captions(found, row)
            if content is not None:
                _note_image(found, content, seen, config.max_pixels)
    rows = parts.parts[0].table.num_rows if parts.parts and isinstance(parts.parts[0], RowPart) else None
    found.entries = round(found.looked_at * len(parts.parts) / max(len(chosen), 1)) if rows is None else rows
    return found


def _spread(parts: Sequence[Any], most: int) -> list[Any]:
    if len(parts) <= most:
        return list(parts)
    return [parts[number * len(parts) // most] for number in range(most)]


def _rows(part: Any) -> Iterator[tuple[dict[str, Any], None]]:
    for row in part.rows().to_pylist():
        yield row, None


def _images(opened: Source, part: Any) -> Iterator[tuple[dict[str, Any], bytes | ItemFault]]:
    for one in opened.read(part).each:
        if isinstance(one, Entry):
            yield one.row, one.content


def _note_captions(found: Survey, row: dict[str, Any]) -> None:
    texts = row.get("captions") or [row.get("caption")]
    captions = [text for text in texts if isinstance(text, str) and text.strip()]
    found.captioned += bool(captions)
    found.captions += len(captions)
    for caption in captions:
        words = caption.lower().split()
        found.words.append(len(words))
        found.with_sides += any(word.strip(".,;:!?") in _SIDES for word in words)
        if script := script_of(caption):
            found.scripts[script] += 1


def script_of(text: str) -> str:
    """Return the script of most letters of a text, by the first word of their Unicode names; "" where it has none."""
    letters = (unicodedata.name(char, "").partition(" ")[0] for char in text[:_MOST_LETTERS] if char.isalpha())
    counted = collections.Counter(name for name in letters if name)
    return counted.most_common(1)[0][0] if counted else ""


def _note_image(found: Survey, content: bytes | ItemFault, seen: set[bytes], max_pixels: int) -> None:
    from stages.formats.image_decoding.decoding import check

    try:
        if isinstance(content, ItemFault):
            raise content
        width, height = check(content, max_pixels=max_pixels).header.upright_size
    except ItemFault as fault:
        found.faults[fault.cause.value] += 1
        return
    found.shorter_sides.append(min(width, height))
    found.ratios.append(width / max(height, 1))
    digest = hashlib.sha256(content).digest()
    found.duplicates += digest in seen
    seen.add(digest)
