"""The one split of an experiment's images into those to train on, to validate on, and to test on; chosen by key.

Every stage that trains asks it of each of its images, so what one of them validates on none of them has trained on.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from stages.contract.config import ConfigModel
from stages.contract.documents import Document
from stages.formats.samples import uniform_number

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

#: Added to the seed, so that the split and the choice of captions by the same seed are independent.
SALT = 0x5EED


class SplitConfig(ConfigModel):
    """How many images no model is trained on, and which."""

    validation: float = Field(0.1, gt=0.0, lt=1.0, description="fraction of the images that training validates on")
    test: float = Field(0.0, ge=0.0, lt=1.0, description="fraction that training never sees, for the evaluation")
    seed: int = Field(0, description="which images: another seed is another split")

    @model_validator(mode="after")
    def _some_are_left(self) -> "SplitConfig":
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation is {self.validation:g} and test {self.test:g}, which leaves nothing to train on: allowed "
                "is less than 1 together: lower one of them"
            )
        return self


class SplitRecord(Document):
    """What a stage that trained took of the split; in its artifact."""

    file: ClassVar[str] = "image_split.json"

    validation: float
    test: float
    seed: int
    train_images: int
    """Images of the stage that are in each part."""
    validation_images: int
    test_images: int
    keys: str
    """Digest of the keys of validation and test, sorted: equal where two stages have the same images there."""
    too_few: bool = False
    """Whether the hash put too few images aside, so that those next to them were added."""


def split_numbers(keys: Sequence[str], config: SplitConfig) -> "Float[np.ndarray, ' keys']":
    """Return u(key) of each key for this split: below ``test`` is test, then ``validation``, then training."""
    import numpy as np

    return np.fromiter((uniform_number(key, config.seed ^ SALT) for key in keys), dtype=np.float64, count=len(keys))
