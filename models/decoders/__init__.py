"""Decoders: from a CLIP image embedding back to a picture (method section 3).

This package imports no torch by itself, so that configurations may read its dataclasses cheaply.
"""

from models.decoders.config import PixelDecoderConfig, ProcessConfig
from models.decoders.factory import make_decoder
from models.decoders.sampling import DecoderSampling

__all__ = ["DecoderSampling", "PixelDecoderConfig", "ProcessConfig", "make_decoder"]
