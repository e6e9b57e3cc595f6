"""Captioned images at random access: only their places in the shards are held in memory."""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stages.contract.errors import InputFault
from stages.formats.captions import CaptionsConfig, select_captioned
from stages.formats.shards import shard_tar
from stages.storage.artifact import Artifact

_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class CaptionedImage:
    """Where an image lies in a shard, and its caption."""

    key: str
    shard: Path
    offset: int
    size: int
    caption: str

    def read(self) -> Image.Image:
        """Read and decode the image."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return Image.open(io.BytesIO(file.read(self.size))).convert("RGB")


def list_captioned(shards: Artifact) -> list[CaptionedImage]:
    """List all captioned images of all shards, in the order of their keys.

    Raises:
        InputFault: there are fewer than two.
    """
    found = [image for name in sorted(shards.done_units()) for image in _list_shard(shards, name)]
    if len(found) < 2:
        raise InputFault(
            f"train_clip: the shards of download_shards hold {len(found)} captioned images: training by contrast "
            "needs at least two: name the caption column (download_shards.source.caption_column)"
        )
    return found


def _list_shard(shards: Artifact, name: str) -> list[CaptionedImage]:
    path = shard_tar(shards, name)
    images: dict[str, tuple[int, int]] = {}
    captions: dict[str, str] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            if suffix in _IMAGE_SUFFIXES:
                images[key] = (member.offset_data, member.size)
            elif suffix == "txt":
                captions[key] = _read_text(tar, member)
    return [CaptionedImage(key, path, *images[key], captions[key]) for key in sorted(images) if captions.get(key)]


def _read_text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member)
    return content.read().decode() if content is not None else ""


def split_held_out(
    images: Sequence[CaptionedImage], fraction: float, seed: int
) -> tuple[list[CaptionedImage], list[CaptionedImage]]:
    """Return training and held-out images, told apart by the hash of their keys; both have at least one."""
    chosen = select_captioned([image.key for image in images], CaptionsConfig(fraction=fraction, seed=seed))
    if not chosen.any():
        chosen[-1] = True
    if chosen.all():
        chosen[0] = False
    return [images[i] for i in np.flatnonzero(~chosen).tolist()], [images[i] for i in np.flatnonzero(chosen).tolist()]
