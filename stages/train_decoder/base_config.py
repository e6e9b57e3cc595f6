"""What the sections of all kinds of decoders have."""

from typing import ClassVar

from stages.training.images.config import ImageTrainingConfig


class DecoderConfig(ImageTrainingConfig):
    """Train a decoder."""

    stage: ClassVar[str] = "train_decoder"

    kind: str
