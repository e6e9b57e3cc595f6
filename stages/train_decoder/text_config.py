"""The option of decoders by diffusion to be tuned on image and text embeddings together."""

from typing import Any

from pydantic import Field

from stages.contract.config import Address, ConfigModel
from stages.formats.captions import CaptionsConfig
from stages.storage.artifact import Artifact
from stages.training.images.config import ImageTrainingConfig

MODEL_FILES = ("config.json", "model.safetensors")


class TextTuning(ConfigModel):
    """Which decoder to go on with, and how it learns from texts."""

    start: Address = Field(
        description="folder of the trained decoder: config.json and model.safetensors, as in decoder/ of an artifact "
        "of train_decoder; here or at any address that fsspec knows (s3://, gs://)"
    )
    text_dropout: float = Field(0.1, ge=0, lt=1, description="share of texts left out, so that images alone still do")

    def decoder(self) -> tuple[Artifact, str]:
        """Return where the decoder lies: what holds its folder, and the folder's name there."""
        above, _, folder = self.start.rstrip("/").rpartition("/")
        return Artifact(above, "train_decoder", "start"), folder


class TextTunedConfig(ImageTrainingConfig):
    """What the kinds are told that can be tuned so."""

    text: TextTuning | None = Field(
        None, description="go on with a trained decoder on the captioned images, told texts too; none: train on all "
        "images, told nothing but their embeddings",
    )  # fmt: skip
    captions: CaptionsConfig = Field(CaptionsConfig(), description="text: which captions are read")

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; captions count where they are read."""
        identity = super().identity()
        if self.text is None:
            del identity["text"], identity["captions"]
        return identity
