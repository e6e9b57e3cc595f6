"""The true drawings of an artist, and which concepts the decoder has seen."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stages.download_shards.config import DownloadShardsConfig, DrawingsSource
from stages.download_shards.drawings.svg import render_svg
from stages.download_shards.sources.drawings import Drawings, chosen_drawings
from stages.formats.attributions import Attribution


@dataclass(frozen=True)
class Truth:
    """Every concept that all artists drew, by the artist in question."""

    names: list[str]
    images: UInt8[np.ndarray, "drawings size size 3"]
    seen: list[int]
    """Rows whose drawing the decoder saw, in an order of their own: by the hash of the concept."""
    held_out: list[int]
    works: tuple[Attribution, ...]


def read_truth(source: DrawingsSource) -> Truth:
    """Render the drawings of the run's artist, with the run's choice of held-out concepts."""
    common = source.model_copy(update={"concepts": "all", "only_common": True})
    icons = chosen_drawings(common, source.sets[0])
    held_out = {
        icon.concept for icon in chosen_drawings(common.model_copy(update={"concepts": "held_out"}), source.sets[0])
    }
    order = sorted(range(len(icons)), key=lambda row: hashlib.sha256(icons[row].concept.encode()).digest())
    images = [Image.open(io.BytesIO(render_svg(icon.svg, source.resolution))).convert("RGB") for icon in icons]
    config = DownloadShardsConfig(source=source)
    with Drawings(source, config).parts() as parts:
        works = parts.attributions.works
    return Truth(
        names=[icon.name for icon in icons],
        images=np.stack([np.asarray(image) for image in images]),
        seen=[row for row in order if icons[row].concept not in held_out],
        held_out=[row for row in order if icons[row].concept in held_out],
        works=works,
    )
