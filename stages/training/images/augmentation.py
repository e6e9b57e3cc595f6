"""Crop and mirror images at random, by the position of each sample in the sequence of all."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from stages.training.images.augmentation_config import ImageAugmentation
from stages.training.randomness import sample_uniform
from stages.training.task import BatchPart


def augmented_bytes(
    images: Int[Tensor, "batch height width 3"], part: BatchPart, config: ImageAugmentation, seed: int
) -> Int[Tensor, "batch height width 3"]:
    """Return images of bytes, cropped and mirrored."""
    changed = augmented(images.movedim(-1, 1).float(), part, config, seed)
    return changed.round().clamp(0, 255).to(images.dtype).movedim(1, -1).contiguous()


def augmented(
    images: Float[Tensor, "batch 3 height width"], part: BatchPart, config: ImageAugmentation, seed: int
) -> Float[Tensor, "batch 3 height width"]:
    """Return images, cropped and mirrored: mirrored ones exactly, crops by bilinear interpolation.

    With s uniform in [1 - crop, 1] the side that is kept and c uniform the place of its corner, the pixel at x in
    [-1, 1] is taken from s x + (1 - s)(2 c - 1).
    """
    is_mirrored = torch.from_numpy(sample_uniform(seed, part, "flip") < config.flip)
    images = torch.where(is_mirrored[:, None, None, None], images.flip(-1), images)
    if config.crop == 0:
        return images
    side = 1 - config.crop * sample_uniform(seed, part, "crop_side")
    corners = [(1 - side) * (2 * sample_uniform(seed, part, name) - 1) for name in ("crop_left", "crop_top")]
    zero = np.zeros_like(side)
    rows = [[side, zero, corners[0]], [zero, side, corners[1]]]
    theta = torch.from_numpy(np.stack([np.stack(row, axis=-1) for row in rows], axis=1)).float()
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
