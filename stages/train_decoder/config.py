"""Which decoder to train, on what picture size, and how."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from models.decoders.config import Parametrization, PixelDecoderConfig
from stages.contract import ConfigModel, RuntimeOnly, StageConfig
from stages.training.config import TrainingConfig


class SamplesConfig(ConfigModel):
    """The grid of pictures that shows how training goes: held-out embeddings, the same noise every time."""

    num_images: PositiveInt = 16
    num_steps: PositiveInt = Field(10, description="sampling steps")
    guidance_scale: float = Field(1.5, ge=1.0, description="classifier-free guidance; 1: none")


class PixelUNetConfig(ConfigModel):
    """The network and its process; see models.decoders.config.PixelDecoderConfig."""

    unshuffle: PositiveInt = Field(8, description="pixels per side of the blocks that the U-Net works on")
    channels: tuple[PositiveInt, ...] = Field((128, 160), description="U-Net width by level")
    blocks_per_level: PositiveInt = 1
    attention_levels: int = Field(0, ge=0, description="lowest levels that attend to the embedding's tokens")
    num_tokens: PositiveInt = Field(8, description="tokens that the embedding is projected to")
    token_dim: PositiveInt = 128
    layout_channels: int = Field(16, ge=0, description="channels of the map drawn from the embedding; 0: no map")
    layout_resolution: PositiveInt = 8
    layout_hidden: PositiveInt = 512
    parametrization: Parametrization = "flow_sample"
    empty_probability: float = Field(0.1, ge=0, lt=1, description="share of embeddings replaced by the empty one")
    embedding_noise: float = Field(0.1, ge=0, description="noise on embeddings in training, in their deviations")


class PixelDiffusionConfig(StageConfig):
    """Train a pixel-diffusion decoder on all images."""

    stage: ClassVar[str] = "train_decoder"
    uses_gpu: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "training"

    kind: Literal["pixel_diffusion"]
    seed: int = 0
    resolution: PositiveInt = Field(64, description="side of the pictures in pixels")
    network: PixelUNetConfig = PixelUNetConfig()
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
    samples: SamplesConfig = SamplesConfig()
    held_out_images: PositiveInt = Field(64, description="images kept from training; at most a tenth of all")
    cache_gigabytes: Annotated[float, RuntimeOnly(), Field(gt=0)] = Field(
        2.0, description="memory per worker for decoded pictures"
    )

    @field_validator("training", mode="before")
    @classmethod
    def _fill_training(cls, given: object) -> object:
        """Keep this stage's own defaults for whatever a section under `training` leaves out."""
        defaults = cls.model_fields["training"].default
        return {**defaults.model_dump(), **given} if isinstance(given, dict) else given

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images and their embeddings."""
        return ("download_shards", "embed_clip")

    def decoder(self, embed_dim: int) -> PixelDecoderConfig:
        """Return the decoder's own configuration, for embeddings of that width.

        Raises:
            ValueError: the network cannot be built at this resolution.
        """
        return PixelDecoderConfig(embed_dim=embed_dim, resolution=self.resolution, **dict(self.network))


TrainDecoderConfig = PixelDiffusionConfig  # becomes a union on `kind` with the next decoder
