"""Check that the CLIP models are there."""

from stages.encoders.check import check_clip
from stages.train_decoder.stylegan2.config import StyleGan2DecoderConfig


def check(config: StyleGan2DecoderConfig) -> None:
    """Check the CLIP models."""
    check_clip(config.clip)
