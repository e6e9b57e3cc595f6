"""Rendering: scenes to anti-aliased 8-bit images at any resolution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.scenes.scene import Scene
from models.scenes.shapes import coverage
from models.scenes.vocabulary import BACKGROUNDS, COLORS, POSITIONS, SHAPES, SIZES

OFFSET_JITTER: Final[float] = 0.016
RADIUS_JITTER: Final[float] = 0.06
COLOR_JITTER: Final[float] = 0.05
TINT_JITTER: Final[float] = 0.025
STRIPE_PERIOD: Final[float] = 0.18
STRIPE_DEPTH: Final[float] = 0.30

_CHUNK: Final[int] = 512


@dataclass(frozen=True)
class _Layout:
    """The geometry and colors of a batch of scenes, jitter included."""

    center: Float[Tensor, "batch 2"]
    radius: Float[Tensor, " batch"]
    color: Float[Tensor, "batch 3"]
    tint: Float[Tensor, "batch 3"]
    stripe_depth: Float[Tensor, " batch"]
    stripe_phase: Float[Tensor, " batch"]


def render_scenes(scenes: Sequence[Scene], resolution: int = 64) -> UInt8[Tensor, "batch height width 3"]:
    """Render the scenes; the same scene gives the same pixels in every batch."""
    if not scenes:
        return torch.zeros(0, resolution, resolution, 3, dtype=torch.uint8)
    chunks = [scenes[start : start + _CHUNK] for start in range(0, len(scenes), _CHUNK)]
    return torch.cat([_render_chunk(chunk, resolution) for chunk in chunks])


def _render_chunk(scenes: Sequence[Scene], resolution: int) -> UInt8[Tensor, "batch height width 3"]:
    layout = _lay_out(scenes)
    cover = torch.empty(len(scenes), resolution, resolution)
    for shape in SHAPES:
        rows = [index for index, scene in enumerate(scenes) if scene.shape == shape]
        if rows:
            cover[rows] = coverage(shape, layout.center[rows], layout.radius[rows], resolution)
    ground = layout.tint[:, None, None, :] * _stripes(layout, resolution)[..., None]
    image = torch.lerp(ground, layout.color[:, None, None, :], cover[..., None])
    return image.round().clamp(0, 255).to(torch.uint8)


def _stripes(layout: _Layout, resolution: int) -> Float[Tensor, "batch height width"]:
    """Brightness of the background: 1 on the tint, lower on diagonal stripes."""
    ticks = (torch.arange(resolution, dtype=torch.float32) + 0.5) / resolution
    diagonal = (ticks[:, None] + ticks[None, :]) / STRIPE_PERIOD
    phase = 2 * torch.pi * (diagonal[None] + layout.stripe_phase[:, None, None])
    return 1.0 - layout.stripe_depth[:, None, None] * (0.5 + 0.5 * phase.sin())


def _lay_out(scenes: Sequence[Scene]) -> _Layout:
    random_inputs = np.stack([np.random.default_rng(scene.jitter_seed).random(6) for scene in scenes])
    unit = torch.from_numpy(random_inputs).float()  # uniform in [0, 1): [batch, 6]
    signed = 2 * unit - 1
    center = torch.tensor([POSITIONS[scene.position] for scene in scenes])
    radius = torch.tensor([SIZES[scene.size] for scene in scenes])
    color = torch.tensor([COLORS[scene.color] for scene in scenes])
    tint = torch.tensor([BACKGROUNDS[scene.domain][scene.background] for scene in scenes])
    striped = torch.tensor([scene.domain == "night" for scene in scenes])
    return _Layout(
        center=center + OFFSET_JITTER * signed[:, :2],
        radius=radius * (1 + RADIUS_JITTER * signed[:, 2]),
        color=color * (1 + COLOR_JITTER * signed[:, 3, None]),
        tint=tint * (1 + TINT_JITTER * signed[:, 4, None]),
        stripe_depth=STRIPE_DEPTH * striped,
        stripe_phase=unit[:, 5],
    )
