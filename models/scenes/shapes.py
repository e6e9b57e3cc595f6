"""Signed distance to each shape, negative inside, for a shape of nominal radius 1.

Distances are exact next to straight edges, which is all that anti-aliasing needs; at corners
they are lower bounds. Rows grow downwards. The outlines have roughly equal areas.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

Distance = Float[Tensor, "batch #height #width"]
SignedDistance = Callable[[Distance, Distance], Distance]

_STAR_TIP, _STAR_NOTCH = 1.22, 0.52
_CROSS_ARM, _CROSS_HALF_WIDTH = 1.08, 0.34
_RING_RADIUS, _RING_HALF_WIDTH = 0.82, 0.24


def _circle(row: Distance, column: Distance) -> Distance:
    return torch.hypot(row, column) - 1.0


def _square(row: Distance, column: Distance) -> Distance:
    return torch.maximum(row.abs(), column.abs()) - 0.9


def _triangle(row: Distance, column: Distance) -> Distance:
    """Upright and equilateral: the largest of three half-plane distances."""
    row = row - 0.18
    slant = math.sqrt(3) / 2 * column.abs() - 0.5 * row
    return torch.maximum(slant, row) - 0.66


def _star(row: Distance, column: Distance) -> Distance:
    """Five points: fold the plane into one half-point, whose edge is a single line."""
    sector = 2 * math.pi / 5
    angle = torch.atan2(column, -row)
    folded = (torch.remainder(angle + sector / 2, sector) - sector / 2).abs()
    radius = torch.hypot(row, column)
    along, across = radius * folded.cos(), radius * folded.sin()
    notch_along = _STAR_NOTCH * math.cos(sector / 2)
    notch_across = _STAR_NOTCH * math.sin(sector / 2)
    edge = math.hypot(_STAR_TIP - notch_along, notch_across)
    return ((along - _STAR_TIP) * notch_across + across * (_STAR_TIP - notch_along)) / edge


def _cross(row: Distance, column: Distance) -> Distance:
    long = torch.maximum(row.abs(), column.abs()) - _CROSS_ARM
    short = torch.minimum(row.abs(), column.abs()) - _CROSS_HALF_WIDTH
    return torch.maximum(long, short)


def _ring(row: Distance, column: Distance) -> Distance:
    return (torch.hypot(row, column) - _RING_RADIUS).abs() - _RING_HALF_WIDTH


SIGNED_DISTANCES: Final[dict[str, SignedDistance]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


def coverage(
    shape: str,
    center: Float[Tensor, "batch 2"],
    radius: Float[Tensor, " batch"],
    resolution: int,
) -> Float[Tensor, "batch resolution resolution"]:
    """Measure how much of each pixel the shape covers, by its distance in pixels from the edge."""
    ticks = (torch.arange(resolution, dtype=torch.float32) + 0.5) / resolution
    size = radius[:, None, None]
    row = (ticks[None, :, None] - center[:, 0, None, None]) / size
    column = (ticks[None, None, :] - center[:, 1, None, None]) / size
    distance = SIGNED_DISTANCES[shape](row, column)
    return (0.5 - distance * size * resolution).clamp(0.0, 1.0)
