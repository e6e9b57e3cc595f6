"""How images to train on are changed at random."""

from pydantic import Field

from stages.contract.config import ConfigModel


class ImageAugmentation(ConfigModel):
    """Crops and flips of images to train on, other ones at each visit; images to validate on stay as they are."""

    crop: float = Field(
        0.0, ge=0, lt=1, description="largest part of the side that is cut away, enlarged again: 0.1 for photographs"
    )
    flip: float = Field(
        0.0, ge=0, le=1, description="fraction of images that are mirrored: 0.5 for photographs, 0 where left and "
        "right or lettering count"
    )  # fmt: skip

    @property
    def changes(self) -> bool:
        """Whether anything is changed at all."""
        return self.crop > 0 or self.flip > 0
