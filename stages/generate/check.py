"""Check that what generation reads from outside the store is there."""

from stages.encoders.check import check_clip, check_t5
from stages.generate.config import FilePrompts, GenerateConfig
from stages.generate.prompts import read_prompts


def check(config: GenerateConfig) -> None:
    """Check the CLIP models, the T5 encoder and the file of prompts."""
    check_clip(config.clip)
    if config.t5 is not None:
        check_t5(config.t5, where="generate.t5")
    if isinstance(config.prompts, FilePrompts):
        read_prompts(config.prompts)
