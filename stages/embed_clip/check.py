"""Check that the encoders are there."""

from stages.embed_clip.config import EmbedClipConfig
from stages.encoders.check import check_clip, check_text_model


def check(config: EmbedClipConfig) -> None:
    """Check the CLIP models and the encoders of token states."""
    check_clip(config.clip)
    if config.text_states is not None:
        for name, model in config.text_states.text_models.items():
            check_text_model(model, where=f"embed_clip.text_states.{name}")
