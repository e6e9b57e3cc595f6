"""What download_shards made: counts, causes of loss, captions, sizes, a sheet of samples."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from pipeline.inspection.captions import CaptionStatistics, histogram
from pipeline.inspection.findings import Findings
from stages.contract.errors import InputFault
from stages.formats.image_grids import TILE, image_grid
from stages.formats.images import decode_image, square
from stages.formats.shards import EntryStatus, failure_label, index_images, read_member, read_table, shard_tar
from stages.storage.artifact import Artifact

T = TypeVar("T")
SHOWN = 24
LOST_SHOWN = 10


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most so many items, spread evenly."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / max(1, count - 1))] for index in range(count)]


def inspect_shards(artifact: Artifact, findings: Findings, *, max_shards: int) -> None:
    """Look at the tables of some shards, and at some of their images."""
    names = sorted(artifact.done_units())
    looked = evenly(names, max_shards)
    findings.notes.append(f"captions, sizes and lost entries: of {len(looked)} of {len(names)} shards")
    captions, lost = CaptionStatistics(), []
    sizes: dict[str, list[int]] = {"kept": [], "original": []}
    samples: list[tuple[str, str, str]] = []
    for name in looked:
        table = read_table(artifact, name)
        for row in table.to_pylist():
            if row["status"] != EntryStatus.SUCCESS:
                lost.append((row["key"], failure_label(row), row.get("url") or ""))
                continue
            found = captions_of(row)
            captions.add(found)
            samples.append((name, row["key"], next(iter(found), "")))
            sizes["kept"].append(min(row["width"], row["height"]))
            sizes["original"].append(min(row["original_width"], row["original_height"]))
    captions.show(findings)
    for kind, sides in sizes.items():
        findings.add_table(f"shorter side in pixels ({kind})", ("pixels", "images", "share"), histogram(sides))
    findings.add_table("lost entries (first ones)", ("key", "cause", "address"), lost[:LOST_SHOWN])
    add_sheet(findings, artifact, evenly(samples, SHOWN), "samples", "samples")


def captions_of(row: dict[str, object]) -> list[str]:
    """Return all captions of a row of a shard's table."""
    listed = row.get("captions")
    if isinstance(listed, list):
        return [str(caption) for caption in listed]
    return [str(row["caption"])] if row.get("caption") else []


def add_sheet(
    findings: Findings, shards: Artifact, samples: Sequence[tuple[str, str, str]], name: str, title: str, *,
    columns: int = 6,
) -> None:  # fmt: skip
    """Add a sheet of the images at (shard, key), with a text under each; what cannot be decoded is left out."""
    shown = [(image, text) for image, text in _images(findings, shards, samples)]
    if shown:
        images = np.stack([image for image, _ in shown])
        findings.add_image(name, title, image_grid(images, [text for _, text in shown], columns=columns))


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
