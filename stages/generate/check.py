"""Check that what generation reads from outside the store is there."""

from stages.encoders.check import check_clip, check_text_model
from stages.generate.config import FilePrompts, GenerateConfig
from stages.generate.prompts import read_prompts


def check(config: GenerateConfig) -> None:
    """Check the CLIP models, the encoders of token states and the file of prompts."""
    check_clip(config.clip)
    for name, model in config.text_models.items():
        check_text_model(model, where=f"generate.{name}")
    if isinstance(config.prompts, FilePrompts):
        read_prompts(config.prompts)
