"""Bring samples of more than 8 bits, or of floating-point numbers, to bytes.

Integers of 9 to 16 bits are scaled by their full range. For 32 bits and floating-point numbers, files do not say which
value is white: it is taken to be the smallest of 1 (floating-point alone), 255, 65535 and the type's largest that no
value exceeds, where the brightest value is at least a sixteenth of it, so that no image becomes black by mistake.
"""

import numpy as np
from numpy.typing import NDArray

from stages.formats.image_decoding.header import unsupported

_ROWS_AT_A_TIME = 4_000_000  # values, so that the conversion needs little memory
_DARKEST = 16  # the brightest value is at least such a part of white
_OVERSHOOT = 0.05  # by which floating-point values leave 0 to 1 where an image was sharpened


def white_of(values: NDArray[np.generic], depth: int) -> float:
    """Return the value that is white, for integers of so many bits or for floating-point numbers."""
    kind = values.dtype.kind
    if kind == "u" and depth <= 16:
        return float(2**depth - 1)
    lowest, highest = float(values.min()), float(values.max())
    if not np.isfinite([lowest, highest]).all():
        raise unsupported("pixels that are no finite numbers")
    if kind == "f" and lowest >= -_OVERSHOOT and highest <= 1 + _OVERSHOOT:
        return 1.0
    whites = [255.0, 65535.0] if kind == "f" else [255.0, 65535.0, float(2 ** (depth - (kind == "i")) - 1)]
    if depth <= 16:  # signed
        whites = [255.0, float(2 ** (depth - 1) - 1)]
    white = next((white for white in whites if highest <= white), None)
    if lowest < 0 or white is None or (highest and highest < white / _DARKEST):
        raise unsupported(f"pixels from {lowest:.6g} to {highest:.6g}, of which nobody knows how bright they are")
    return white


def to_bytes(values: NDArray[np.generic], white: float, *, is_inverted: bool = False) -> NDArray[np.uint8]:
    """Return 255 v / white, rounded; inverted: white is zero."""
    made = np.empty(values.shape, np.uint8)
    step = max(1, _ROWS_AT_A_TIME // max(values[:1].size, 1))
    for start in range(0, len(values), step):
        scaled = values[start : start + step].astype(np.float64) * (255 / white)
        made[start : start + step] = np.rint(255 - scaled if is_inverted else scaled).clip(0, 255)
    return made
