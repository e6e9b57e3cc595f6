"""Which captions may be used: a fraction of people's, chosen by hash, and pseudo-captions beside them by weight."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeFloat, model_validator

from stages.contract.config import ConfigModel
from stages.formats.samples import uniform_number

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int

    Counts = Int[np.ndarray, " images"]


class CaptionMix(ConfigModel):
    """By which weights one caption of an image is chosen that has human captions and pseudo-captions.

    An image of one kind uses that; of several of a kind each has the same chance. A kind of weight 0 is left out.
    """

    human: NonNegativeFloat = Field(0.7, description="weight of the human captions that captions.fraction leaves")
    pseudo: NonNegativeFloat = Field(0.3, description="weight of the pseudo-captions of caption_images; 0: use none")

    @model_validator(mode="after")
    def _some_weight(self) -> "CaptionMix":
        if self.human + self.pseudo == 0:
            raise ValueError("human and pseudo are both 0, which leaves no caption: give one of them a weight above 0")
        return self

    @property
    def human_fraction(self) -> float:
        """The chance of a human caption where there are both."""
        return self.human / (self.human + self.pseudo)


class CaptionsConfig(ConfigModel):
    """How many of the captions may be used, and how pseudo-captions are mixed in."""

    fraction: float = Field(
        1.0, ge=0.0, le=1.0, description="share of the captioned images whose (human) captions may be used"
    )
    seed: int = Field(0, description="which captions: another seed is another subset")
    mix: CaptionMix | None = Field(
        None, description="weights of human captions and pseudo-captions; none: 0.7 and 0.3 with caption_images"
    )

    @property
    def reads_pseudo(self) -> bool:
        """Whether pseudo-captions are used."""
        return self.mix is not None and self.mix.pseudo > 0

    @property
    def human_fraction(self) -> float:
        """The chance of a human caption for an image that has both kinds."""
        return 1.0 if self.mix is None else self.mix.human_fraction

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; a mix is named where there is one."""
        identity = super().identity()
        if self.mix is None:
            del identity["mix"]
        return identity


def select_captioned(keys: Sequence[str], config: CaptionsConfig) -> "Bool[np.ndarray, ' keys']":
    """Tell for each key whether its human captions may be used: u(key) < fraction (:func:`uniform_number`).

    The choice depends on the key alone, so it is the same in every shard and run, and a smaller fraction is a subset of
    a larger one.
    """
    import numpy as np

    return np.fromiter((uniform_number(key, config.seed) < config.fraction for key in keys), dtype=bool)


def choose_captions(
    choice: "Float[np.ndarray, ' images']", num_human: "Counts", num_pseudo: "Counts", human_fraction: float
) -> "Counts":
    """Return the number of one caption of each image, whose human captions come first.

    ``choice`` is in [0, 1). Where it is below h it chooses a human caption, number floor(choice / h x captions), else a
    pseudo-caption likewise; h is ``human_fraction`` of images of both kinds, and 1 or 0 of those of one.
    """
    import numpy as np

    h = np.where(num_pseudo == 0, 1.0, np.where(num_human == 0, 0.0, human_fraction))
    is_human = choice < h
    below, above = np.where(h > 0, h, 1.0), np.where(h < 1, 1.0 - h, 1.0)
    within = np.where(is_human, choice / below, (choice - h) / above)
    count = np.where(is_human, num_human, num_pseudo)
    number = np.minimum((within * count).astype(np.int64), count - 1)
    chosen: np.ndarray = number + np.where(is_human, 0, num_human)
    return chosen
