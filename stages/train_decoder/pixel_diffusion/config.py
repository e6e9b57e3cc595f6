"""The pixel-diffusion decoder: network, noise process, and how it is trained."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from models.decoders.pixel_diffusion.spec import PixelDecoderConfig
from stages.contract.config import ConfigModel
from stages.train_decoder.text_config import TextTunedConfig
from stages.training.config import TrainingConfig
from stages.training.images.process import ProcessSection


class PixelUNetConfig(ConfigModel):
    """The network; see models.decoders.pixel_diffusion.spec.PixelDecoderConfig."""

    unshuffle: PositiveInt = Field(8, description="pixels per side of the blocks that the U-Net works on")
    channels: tuple[PositiveInt, ...] = Field((128, 160), description="U-Net width by level")
    blocks_per_level: PositiveInt = 1
    attention_levels: int = Field(0, ge=0, description="lowest levels that attend to the embedding's tokens")
    num_tokens: PositiveInt = Field(8, description="tokens that the embedding is projected to")
    token_dim: PositiveInt = 128
    layout_channels: int = Field(16, ge=0, description="channels of the map drawn from the embedding; 0: no map")
    layout_resolution: PositiveInt = 8
    layout_hidden: PositiveInt = 512
    empty_probability: float = Field(0.1, ge=0, lt=1, description="share of embeddings replaced by the empty one")
    embedding_noise: float = Field(0.1, ge=0, description="noise on embeddings in training, in their deviations")
    gradient_checkpointing: bool = Field(False, description="less memory for activations, more time")


class PixelDiffusionConfig(TextTunedConfig):
    """Train a pixel-diffusion decoder on all images."""

    stage: ClassVar[str] = "train_decoder"
    code_version: ClassVar[int] = 2

    kind: Literal["pixel_diffusion"]
    network: PixelUNetConfig = PixelUNetConfig()
    process: ProcessSection = ProcessSection()
    training: TrainingConfig = TrainingConfig(
        num_steps=1100,
        batch_size=32,
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        warmup_steps=50,
        schedule="cosine",
        ema_decay=0.99,
        checkpoint_interval=200,
    )

    @model_validator(mode="after")
    def _can_be_built(self) -> "PixelDiffusionConfig":
        self.decoder(1)
        return self

    def decoder(self, embed_dim: int) -> PixelDecoderConfig:
        """Return the decoder's own configuration, for embeddings of that width.

        Raises:
            ValueError: the network cannot be built at this resolution.
        """
        return PixelDecoderConfig(
            embed_dim=embed_dim,
            resolution=self.resolution,
            text_dim=embed_dim if self.text else 0,
            process=self.process.settings(),
            **dict(self.network),
        )
