"""For ``corgi inspect``: sheets of samples, images of shards with a text under each; and statistics of captions."""

import collections
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from stages.contract.errors import InputFault
from stages.contract.findings import QUANTILES, Findings, InspectionContext, quantiles
from stages.formats.image_grids import TILE, image_grid
from stages.formats.images import decode_image, square
from stages.formats.shards import index_images, read_member, shard_tar
from stages.formats.worst_samples import WorstSamples
from stages.storage.artifact import Artifact

MOST_WORDS = 20
_WORST_SHOWN = 12


def add_sheet(
    findings: Findings, shards: Artifact, samples: Sequence[tuple[str, str, str]], title: str, *, columns: int = 6
) -> None:
    """Add a sheet of the images at (shard, key), with a text under each; what cannot be decoded is left out."""
    shown = [(image, text) for image, text in _images(findings, shards, samples)]
    if shown:
        images = np.stack([image for image, _ in shown])
        findings.add_image(title, image_grid(images, [text for _, text in shown], columns=columns))


def add_worst(findings: Findings, worst: WorstSamples, context: InspectionContext, title: str) -> None:
    """Add the samples that a model fits least: a table, and their images where the shards are there."""
    shown = worst.samples[:_WORST_SHOWN]
    title = f"{title}, of {worst.validated}, after step {worst.step}"
    findings.add_table(title, ("shard", "key", "loss"), [(one.shard, one.key, f"{one.loss:.4g}") for one in shown])
    shards = context.input_of("download_shards")
    if shards is not None:
        add_sheet(findings, shards, [(one.shard, one.key, f"loss {one.loss:.4g}") for one in shown], title)


def _images(
    findings: Findings, shards: Artifact, samples: Sequence[tuple[str, str, str]]
) -> Iterator[tuple[np.ndarray, str]]:
    indices = {shard: index_images(shard_tar(shards, shard)) for shard in {shard for shard, *_ in samples}}
    for shard, key, text in samples:
        if key not in indices[shard]:
            continue
        encoded = read_member(shard_tar(shards, shard), *indices[shard][key])
        try:
            image = decode_image(encoded, where=f"shard {shard}, key {key}")
        except InputFault as error:
            findings.notes.append(f"not shown: {error}")
            continue
        side = min(TILE, *image.size)
        yield _in_tile(square(image, side)), text


def _in_tile(image: np.ndarray) -> np.ndarray:
    """Enlarge an image by a whole factor and centre it, so that small ones stay sharp."""
    factor = TILE // len(image)
    large = image.repeat(factor, 0).repeat(factor, 1)
    tile = np.full((TILE, TILE, 3), 255, dtype=np.uint8)
    begin = (TILE - len(large)) // 2
    tile[begin : begin + len(large), begin : begin + len(large)] = large
    return tile


@dataclass
class CaptionStatistics:
    """Captions per image, lengths and words."""

    per_image: collections.Counter[int] = field(default_factory=collections.Counter)
    letters: list[int] = field(default_factory=list)
    words_each: list[int] = field(default_factory=list)
    words: collections.Counter[str] = field(default_factory=collections.Counter)
    texts: set[int] = field(default_factory=set)

    def add(self, captions: Sequence[str]) -> None:
        """Count the captions of one image."""
        self.per_image[len(captions)] += 1
        for caption in captions:
            words = re.findall(r"\w+", caption.lower())
            self.letters.append(len(caption))
            self.words_each.append(len(words))
            self.words.update(words)
            self.texts.add(hash(caption))

    def report(self, findings: Findings) -> None:
        """Add the tables."""
        total = sum(self.per_image.values())
        rows = [(number, count, f"{count / total:.1%}") for number, count in sorted(self.per_image.items())]
        findings.add_table("captions per image", ("captions", "images", "fraction"), rows)
        if self.letters:
            findings.add_table(
                "caption lengths",
                ("measure", *QUANTILES),
                [("letters", *quantiles(self.letters)), ("words", *quantiles(self.words_each))],
            )
            findings.add_figures(
                "caption texts", {"captions": len(self.letters), "different": len(self.texts), "words": len(self.words)}
            )
            findings.add_table("most frequent words", ("word", "count"), self.words.most_common(MOST_WORDS))
