"""Measure one shard."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from stages.contract.documents import UnitRecord
from stages.formats.shards import read_shard, shard_tar
from stages.measure_colors.config import MeasureColorsConfig
from stages.storage.artifact import Artifact


class ColorRecord(UnitRecord):
    """The record of a measured shard."""

    images: int
    sums: tuple[float, ...]
    """Over the images, of each one's mean by channel."""


def make_color_worker(config: MeasureColorsConfig, shards: Artifact) -> Callable[[str], ColorRecord]:
    """Return the function that measures the shard of a name."""

    def measure(name: str) -> ColorRecord:
        samples = read_shard(shard_tar(shards, name), with_captions=False)
        means = [_mean(sample.image) for sample in samples if sample.image is not None]
        return ColorRecord(images=len(means), sums=tuple(np.sum(means, 0).tolist()) if means else (0.0, 0.0, 0.0))

    return measure


def _mean(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).mean((0, 1))
