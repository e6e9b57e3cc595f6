"""What the sections of all kinds of decoders have, and the option to be tuned on image and text embeddings together."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from stages.contract.config import ConfigModel
from stages.formats.captions import CaptionsConfig
from stages.training.images.config import ImageTrainingConfig


class DecoderConfig(ImageTrainingConfig):
    """Train a decoder."""

    stage: ClassVar[str] = "train_decoder"
    model_folder: ClassVar[str] = "decoder"

    kind: str


class TextTuning(ConfigModel):
    """How the trained decoder that ``init_from`` names learns from texts."""

    text_dropout: float = Field(0.1, ge=0, lt=1, description="fraction of texts left out, so that images alone do, too")


class TextTunedConfig(DecoderConfig):
    """The fields of kinds that can be tuned on texts."""

    text: TextTuning | None = Field(
        None, description="tune the trained decoder of init_from on the captioned images, conditioned on texts too; "
        "null: train on all images, conditioned on their embeddings alone",
    )  # fmt: skip
    captions: CaptionsConfig = Field(CaptionsConfig(), description="text: which captions are read")

    @model_validator(mode="after")
    def _tunes_a_trained_one(self) -> "TextTunedConfig":
        if self.text is not None and self.init_from is None:
            raise ValueError(
                "text is given without init_from, the decoder that is tuned: set init_from to a run or to the folder "
                "of a trained decoder, or leave text out"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; captions count where they are read."""
        identity = super().identity()
        if self.text is None:
            del identity["text"], identity["captions"]
        return identity
