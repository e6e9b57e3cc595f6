"""Check that the captioning model is there, without importing transformers."""

from stages.caption_images.config import CaptionImagesConfig
from stages.encoders.image_to_text.files import check_image_to_text_folder

WHERE = "caption_images.model.path"


def check(config: CaptionImagesConfig) -> None:
    """Check that the folder is whole, and what it says."""
    check_image_to_text_folder(
        config.model.path,
        where=WHERE,
        max_new_tokens=config.max_new_tokens,
        setting="caption_images.max_new_tokens",
    )
