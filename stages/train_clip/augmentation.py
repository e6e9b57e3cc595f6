"""Change preprocessed images at random, each by its seed, so that a CLIP reads drawings by other hands, too."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.noise import SeededNoise
from stages.train_clip.config import ClipAugmentation, ClipPreprocessing

Images = Float[Tensor, "count channels height width"]


def augment(
    pixels: Images, seeds: Sequence[int], changes: ClipAugmentation, preprocessing: ClipPreprocessing
) -> Images:
    """Outline, mix the colours, take them away, change contrast and brightness, and add noise, by each image's seed.

    The last three: x' = x (1 + contrast e_1) + brightness e_2 + noise u e_3, e_i normal and u = Phi(e_4) uniform.
    """
    stream = SeededNoise(seeds)
    generated = stream.normal((3 + pixels[0].numel(),))
    if changes.outlines:
        strength = _of_some(stream, changes.outlines) * stream.uniform((1, 1, 1))
        mean, std = (torch.tensor(getattr(preprocessing, name)).view(3, 1, 1) for name in ("mean", "std"))
        colors = pixels * std + mean
        pixels = (colors * (1 - strength * edges(colors)) - mean) / std
    if changes.color:
        pixels = mix_colors(pixels, changes.color * stream.normal((3, 4)))
    if changes.grayscale:
        pixels = torch.lerp(pixels, pixels.mean(1, keepdim=True), _of_some(stream, changes.grayscale))
    contrast, brightness, level = (generated[:, index].view(-1, 1, 1, 1) for index in range(3))
    noise = generated[:, 3:].reshape(-1, *pixels.shape[1:])
    uniform: Tensor = torch.special.ndtr(level)
    changed: Tensor = pixels * (1 + changes.contrast * contrast) + changes.brightness * brightness
    return changed + uniform * noise * changes.noise


def edges(colors: Images) -> Float[Tensor, "count 1 height width"]:
    """Return how much of an edge there is at each pixel; colours go from 0 to 1, and half of that is a whole edge.

    2 (max x - min x) over 3 x 3 pixels of the grey image x, at most 1: the morphological gradient (Rivest, Soille and
    Beucher, Morphological gradients, 1993)
    """
    grey = F.pad(colors.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return (2 * (F.max_pool2d(grey, 3, 1) + F.max_pool2d(-grey, 3, 1))).clamp(max=1.0)


def mix_colors(pixels: Images, changes: Float[Tensor, "count 3 4"]) -> Images:
    """Add to each colour a part of every colour and an offset: x' = x + A x + b with [A b] the changes."""
    mixed = torch.einsum("nij,njhw->nihw", changes[:, :, :3], pixels)
    return pixels + mixed + changes[:, :, 3, None, None]


def _of_some(stream: SeededNoise, fraction: float) -> Float[Tensor, "count 1 1 1"]:
    """Return 1 for this fraction of the images, else 0."""
    return (stream.uniform((1, 1, 1)) < fraction).float()
