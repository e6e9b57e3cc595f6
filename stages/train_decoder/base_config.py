"""What the sections of all kinds of decoders have, and the option to be tuned on image and text embeddings together."""

from typing import Any, ClassVar

from pydantic import Field

from stages.contract.config import Address, ConfigModel
from stages.formats.captions import CaptionsConfig
from stages.storage.artifact import Artifact
from stages.training.images.config import ImageTrainingConfig


class DecoderConfig(ImageTrainingConfig):
    """Train a decoder."""

    stage: ClassVar[str] = "train_decoder"

    kind: str


class TextTuning(ConfigModel):
    """Which trained decoder is tuned, and how it learns from texts."""

    init_checkpoint: Address = Field(
        description="folder of the trained decoder: config.json and model.safetensors, as in decoder/ of an artifact "
        "of train_decoder; here or at any address that fsspec knows (s3://, gs://)"
    )
    text_dropout: float = Field(0.1, ge=0, lt=1, description="fraction of texts left out, so that images alone do, too")

    def decoder(self) -> tuple[Artifact, str]:
        """Return where the decoder is: what holds its folder, and the folder's name there."""
        above, _, folder = self.init_checkpoint.rstrip("/").rpartition("/")
        return Artifact(above, "train_decoder", "init_checkpoint"), folder


class TextTunedConfig(DecoderConfig):
    """The fields of kinds that can be tuned on texts."""

    text: TextTuning | None = Field(
        None, description="tune a trained decoder on the captioned images, conditioned on texts too; null: train "
        "on all images, conditioned on their embeddings alone",
    )  # fmt: skip
    captions: CaptionsConfig = Field(CaptionsConfig(), description="text: which captions are read")

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; captions count where they are read."""
        identity = super().identity()
        if self.text is None:
            del identity["text"], identity["captions"]
        return identity
