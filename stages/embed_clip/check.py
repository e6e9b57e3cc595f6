"""Check that the encoders are there."""

from stages.embed_clip.config import EmbedClipConfig
from stages.encoders.check import check_clip, check_t5


def check(config: EmbedClipConfig) -> None:
    """Check the CLIP models and the T5 encoder."""
    check_clip(config.clip)
    if config.text_states is not None and config.text_states.t5 is not None:
        check_t5(config.text_states.t5, where="embed_clip.text_states.t5")
