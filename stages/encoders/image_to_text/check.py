"""Check that a model that answers questions is there, without importing torch."""

from typing import Final

from stages.encoders.image_to_text.config import QuestionAnswering
from stages.encoders.image_to_text.files import check_image_to_text_folder

TYPES: Final = ("blip", "git")


def check_question_answering(config: QuestionAnswering, where: str) -> None:
    """Check that the folder is whole, and what it says."""
    check_image_to_text_folder(
        config.path, where=f"{where}.path", max_new_tokens=1, setting=f"{where}.reply", types=TYPES
    )
