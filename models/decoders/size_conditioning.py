"""What a network knows of an image's size (SDXL, arXiv 2307.01952, section 2.2).

Symbols: s = (height and width of the original, top and left of the crop, height and width of the bucket) in pixels, the
crop in those of the image scaled to cover the bucket: [batch, 6].
"""

import torch
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float
from torch import Tensor

SizeNumbers = Float[Tensor, "batch 6"]


def size_features(sizes: SizeNumbers, width: int) -> Float[Tensor, "batch features"]:
    """Return the Fourier features of each number, as of a time step, one beside the other: [batch, 6 width]."""
    features: Tensor = get_timestep_embedding(
        sizes.float().flatten(), width, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    return features.reshape(len(sizes), -1)


def whole_images(height: int, width: int, like: Tensor) -> SizeNumbers:
    """Return s of images that were as large as their bucket before, so that nothing was cropped: what is generated."""
    numbers = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=like.device)
    return numbers.expand(len(like), -1)
