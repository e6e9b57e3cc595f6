"""Decoders: from a CLIP image embedding back to a picture (method section 3).

This package imports no torch by itself, so that configurations may read its dataclasses cheaply.
"""

from models.decoders.config import PARAMETRIZATIONS, Parametrization, PixelDecoderConfig

__all__ = ["PARAMETRIZATIONS", "Parametrization", "PixelDecoderConfig"]
