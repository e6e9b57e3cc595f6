"""The words of the scene world and what each of them looks like.

A scene shows one shape of one color and one size, at one of nine positions, on one background.
Lengths are fractions of the image's side, colors are 8-bit RGB.
"""

from typing import Final

RGB = tuple[int, int, int]

SHAPES: Final[tuple[str, ...]] = ("circle", "square", "triangle", "star", "cross", "ring")

COLORS: Final[dict[str, RGB]] = {
    "red": (205, 25, 45),
    "orange": (240, 120, 15),
    "yellow": (250, 220, 45),
    "green": (40, 160, 60),
    "teal": (20, 170, 175),
    "blue": (40, 80, 220),
    "purple": (130, 50, 180),
    "pink": (245, 120, 190),
}

SIZES: Final[dict[str, float]] = {"small": 0.13, "large": 0.19}
"""Nominal radius of each size."""

POSITIONS: Final[dict[str, tuple[float, float]]] = {
    "top left": (0.25, 0.25),
    "top": (0.25, 0.50),
    "top right": (0.25, 0.75),
    "left": (0.50, 0.25),
    "center": (0.50, 0.50),
    "right": (0.50, 0.75),
    "bottom left": (0.75, 0.25),
    "bottom": (0.75, 0.50),
    "bottom right": (0.75, 0.75),
}
"""Nominal (row, column) of the shape's center."""

BACKGROUNDS: Final[dict[str, dict[str, RGB]]] = {
    "plain": {"white": (250, 250, 250), "cream": (250, 236, 200), "mint": (208, 240, 220)},
    "night": {"navy": (22, 26, 62), "plum": (56, 22, 50), "forest": (16, 48, 38)},
}
"""Background tints of each domain; "night" has dark diagonal stripes over them."""

DOMAINS: Final[tuple[str, ...]] = tuple(BACKGROUNDS)

NUM_COMBINATIONS: Final[int] = len(SHAPES) * len(COLORS) * len(SIZES) * len(POSITIONS) * 3
"""Different scenes in each domain, before jitter."""
