"""What the sections of all kinds of decoders have, and the option to be tuned on image and text embeddings together."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from models.decoders.buckets import DecoderBuckets
from models.decoders.registry import SPECS
from models.decoders.spec import BucketedSpec
from stages.contract.config import ConfigModel
from stages.formats.captions import CaptionsConfig
from stages.training.images.config import ImageTrainingConfig


class DecoderConfig(ImageTrainingConfig):
    """Train a decoder."""

    stage: ClassVar[str] = "train_decoder"
    model_folder: ClassVar[str] = "decoder"

    kind: str
    buckets: DecoderBuckets | None = Field(
        None, description="sizes of about the square's area for images of other aspect ratios; null: squares"
    )

    @model_validator(mode="after")
    def _knows_buckets(self) -> "DecoderConfig":
        if self.buckets is not None and not issubclass(SPECS[self.kind], BucketedSpec):
            kinds = ", ".join(name for name, spec in SPECS.items() if issubclass(spec, BucketedSpec))
            raise ValueError(
                f"buckets: found some for kind {self.kind}, whose images are squares: allowed is null; leave it out, "
                f"or choose a kind that takes buckets: {kinds}"
            )
        if self.buckets is not None:
            self.buckets.require_fit(self.resolution)
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; buckets count where there are some."""
        identity = super().identity()
        if self.buckets is None:
            del identity["buckets"]
        return identity


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
