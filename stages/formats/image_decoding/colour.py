"""Bring colours of a profile (ICC) to sRGB.

A profile that is damaged, or of other colours than the image's, is ignored, and the values are taken as sRGB. One that
changes no colour by more than the rounding does is as good as none. PNG's gamma and primaries (gAMA, cHRM, cICP) and
AVIF's (nclx) are ignored, too.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": b"RGB ", "L": b"GRAY", "CMYK": b"CMYK"}
_ROUNDING = 2
_LEVELS = 9  # of each channel, to see what a profile does


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image of mode L, RGB or CMYK as RGB; without a profile, CMYK is converted by the plain formula."""
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def is_srgb(profile: bytes, mode: str) -> bool:
    """Return whether a sound profile leaves the colours of such an image as they are."""
    return _is_sound(profile, mode) and _transform(profile, mode) is None


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings a profile's colours to sRGB; None: nothing does, or nothing is to be done."""
    made = _open(profile, mode)
    if made is None or mode == "CMYK":
        return made
    probe = _probe(mode)
    change = np.asarray(made.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return None if np.abs(change).max() <= _ROUNDING else made


@lru_cache(maxsize=8)
def _is_sound(profile: bytes, mode: str) -> bool:
    return _open(profile, mode) is not None


def _open(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if profile[16:20] != _SPACES.get(mode):
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # noqa: BLE001  whatever is wrong with it, the image's values are kept
        return None


def _probe(mode: str) -> Image.Image:
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, _LEVELS).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    return Image.fromarray(cube.reshape(_LEVELS, -1, 3))
