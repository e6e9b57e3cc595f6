"""Check that the captioning model is there and what it is asked, without importing transformers."""

from stages.caption_images.config import CaptionImagesConfig
from stages.contract.errors import InputFault
from stages.encoders.image_to_text.files import check_image_to_text_folder
from stages.encoders.model_files import read_model_json

WHERE = "caption_images.model.path"
#: Types that reply in a conversation, whose form each model has of its own.
IN_CONVERSATION = ("llava",)


def check(config: CaptionImagesConfig) -> None:
    """Check that the folder is whole, what it says, and that there is a prompt where the model needs one."""
    check_image_to_text_folder(
        config.model.path,
        where=WHERE,
        max_new_tokens=config.max_new_tokens,
        setting="caption_images.max_new_tokens",
    )
    kind = read_model_json(config.model.path / "config.json", WHERE)["model_type"]
    if kind in IN_CONVERSATION and config.prompt is None:
        raise wrong_conversation("none")


def wrong_conversation(found: str, token: str = "<image>") -> InputFault:
    """Return the error of a prompt that is no conversation about one image."""
    return InputFault(
        f"caption_images.prompt: found {found}: the model replies in a conversation: give all of it, with {token} "
        "once, where the image stands, in the form that the model was trained with; that of LLaVA 1.5 is "
        f'"USER: {token}\\nDescribe this image in one sentence. ASSISTANT:"'
    )
