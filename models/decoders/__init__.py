"""Decoders: from a CLIP image embedding back to an image (method section 3).

This package imports no torch by itself, so that configurations may read its dataclasses cheaply.
"""

from models.decoders.pixel_diffusion.spec import PixelDecoderConfig
from models.decoders.registry import make_decoder
from models.decoders.sampling import DecoderSampling
from models.diffusion.spec import ProcessConfig

__all__ = ["DecoderSampling", "PixelDecoderConfig", "ProcessConfig", "make_decoder"]
