"""Which bucket an image belongs to (:mod:`models.decoders.buckets`), and how much of it does not fit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from models.decoders.buckets import Size


def nearest_buckets(widths: Any, heights: Any, sizes: Sequence[Size]) -> Int[np.ndarray, " images"]:
    """Return the number of the bucket whose logarithm of width / height is nearest to each image's."""
    of_images: Float[np.ndarray, " images"] = np.log(np.asarray(widths, float) / np.asarray(heights, float))
    of_sizes = np.log([width / height for width, height in sizes])
    nearest: np.ndarray = np.abs(of_images[:, None] - of_sizes[None]).argmin(axis=1)
    return nearest


def cropped_fraction(widths: Any, heights: Any, sizes: Any) -> Float[np.ndarray, " images"]:
    """Return the fraction of each image's area that does not fit into its size (width, height) [images, 2]."""
    of_images = np.asarray(widths, float) / np.asarray(heights, float)
    of_sizes = np.asarray(sizes, float)[:, 0] / np.asarray(sizes, float)[:, 1]
    lost: np.ndarray = 1 - np.minimum(of_images / of_sizes, of_sizes / of_images)
    return lost
