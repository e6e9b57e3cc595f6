"""Corgi Pipeline: a text-to-image model from a pile of images of which few or none have captions.

``from pipeline import TextToImage`` gives the finished model; experiments are run by the ``corgi`` command.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.text_to_image import TextToImage

__all__ = ["TextToImage"]


def __getattr__(name: str) -> Any:
    """Import the class when it is asked for: it needs torch, which the command line mostly does not."""
    if name == "TextToImage":
        from pipeline.text_to_image import TextToImage

        return TextToImage
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
