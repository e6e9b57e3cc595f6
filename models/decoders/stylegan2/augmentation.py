"""Adaptive discriminator augmentation: what the discriminator sees is changed at random, true and generated alike.

Paper: Karras et al., Training GANs with limited data (arXiv 2006.06676), sections 2 and 3 and appendix B. Of its
changes these are taken: flips, quarter turns, shifts, scale, turns, stretching, and five of color. Each happens to
each image with the same probability p, which follows the discriminator's overfitting.

Symbols: v = (1, 1, 1) / sqrt(3), the axis of grey; M = matrix of the changes.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.buffers import ExactBuffers

Images = Float[Tensor, "batch 3 height width"]
Column = Float[Tensor, " batch"]

_CHANGES = ("flip", "quarter", "shift", "scale", "turn", "stretch", "brightness", "contrast", "invert", "hue", "dye")
NUM_RANDOM_INPUTS = 2 * len(_CHANGES) + 1
"""Uniform numbers that an image's changes take: whether and how much for each, and a second one for the shift."""
_MAX_SHIFT = 0.125


class AugmentationControl(ExactBuffers):
    """The probability p, steered so that the discriminator's mean sign on true images stays at the target.

    It is a saved buffer that moves in the forward pass, by sign(mean - target) * images / images_to_one (ADA,
    section 3.1, r_t), so it is the same after a restart and, given the mean over all workers, on all of them.
    """

    probability: Tensor

    def __init__(self, start: float) -> None:
        super().__init__()
        self.register_buffer("probability", torch.full((1,), start))

    @torch.no_grad()
    def update(self, mean_sign: Tensor, num_images: int, *, target: float, images_to_one: int) -> None:
        """Take one step up where the discriminator is surer of true images than the target, else down."""
        step = torch.sign(mean_sign.float() - target) * (num_images / images_to_one)
        self.probability.add_(step).clamp_(0.0, 1.0)


def augment(images: Images, probability: Float[Tensor, "1"], random_inputs: Float[Tensor, "batch number"]) -> Images:
    """Change each image in [-1, 1] by its own NUM_RANDOM_INPUTS uniform numbers; gradients flow to the images."""
    num = len(_CHANGES)
    happens = dict(zip(_CHANGES, (random_inputs[:, :num] < probability).float().unbind(1), strict=True))
    amount = dict(zip((*_CHANGES, "shift_down"), random_inputs[:, num:].float().unbind(1), strict=True))
    with torch.autocast(images.device.type, enabled=False):
        return _recolor(_move(images.float(), happens, amount), happens, amount)


def _move(images: Images, happens: dict[str, Column], amount: dict[str, Column]) -> Images:
    """Look every pixel up where M sends it, mirroring at the borders."""
    sign = 1 - 2 * happens["flip"] * (amount["flip"] < 0.5)
    angle = happens["quarter"] * (amount["quarter"] * 4).floor() * (math.pi / 2)
    angle = angle + happens["turn"] * (2 * amount["turn"] - 1) * math.pi
    scale = torch.exp2(happens["scale"] * _normal(amount["scale"]) * 0.2)
    stretch = torch.exp2(happens["stretch"] * _normal(amount["stretch"]) * 0.2)
    cos, sin = angle.cos(), angle.sin()
    right = happens["shift"] * (2 * amount["shift"] - 1) * 2 * _MAX_SHIFT  # the image spans [-1, 1]
    down = happens["shift"] * (2 * amount["shift_down"] - 1) * 2 * _MAX_SHIFT
    rows = [
        torch.stack([sign * cos * scale * stretch, -sin * scale / stretch, right], dim=1),
        torch.stack([sign * sin * scale * stretch, cos * scale / stretch, down], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recolor(images: Images, happens: dict[str, Column], amount: dict[str, Column]) -> Images:
    """Return M x + offset of every pixel."""
    identity = torch.eye(3, device=images.device)
    v = torch.full((3,), 1 / math.sqrt(3.0), device=images.device)
    grey = torch.outer(v, v)
    matrix = _times(happens["contrast"] * _normal(amount["contrast"]) * 0.5) * identity
    matrix = matrix @ (identity - 2 * grey * _each(happens["invert"] * (amount["invert"] < 0.5)))
    matrix = matrix @ _turn_about(v, happens["hue"] * (2 * amount["hue"] - 1) * math.pi)
    matrix = matrix @ (grey + (identity - grey) * _times(happens["dye"] * _normal(amount["dye"])))
    offset = happens["brightness"] * _normal(amount["brightness"]) * 0.2
    return torch.einsum("bij,bjhw->bihw", matrix, images) + offset[:, None, None, None]


def _turn_about(axis: Float[Tensor, "3"], angle: Column) -> Float[Tensor, "batch 3 3"]:
    """Return the rotation about an axis (Rodrigues)."""
    x, y, z = axis.tolist()
    cross = axis.new_tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    outer = torch.outer(axis, axis)
    identity = torch.eye(3, device=axis.device)
    return outer + _each(angle.cos()) * (identity - outer) + _each(angle.sin()) * cross


def _times(power: Column) -> Float[Tensor, "batch 1 1"]:
    return _each(torch.exp2(power))


def _each(values: Column) -> Float[Tensor, "batch 1 1"]:
    return values[:, None, None]


def _normal(uniform: Column) -> Column:
    """Turn uniform numbers into standard normal ones."""
    normal: Column = torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6))
    return normal
