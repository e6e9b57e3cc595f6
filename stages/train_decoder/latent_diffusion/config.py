"""The latent-diffusion decoder: network, noise process, and how it is trained."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from models.autoencoders.spec import AutoencoderConfig
from models.decoders.latent_diffusion.spec import LatentDecoderConfig, TransformerShape, UNetShape
from stages.contract.config import ConfigModel
from stages.train_decoder.text_config import TextTunedConfig
from stages.training.config import TrainingConfig
from stages.training.images.process import ProcessSection


class UNetSection(ConfigModel):
    """A U-Net; see models.decoders.latent_diffusion.spec.UNetShape."""

    kind: Literal["unet"]
    channels: tuple[PositiveInt, ...] = Field((128, 160), description="width by level; each halves the grid")
    blocks_per_level: PositiveInt = 1
    attention_levels: int = Field(0, ge=0, description="lowest levels that attend to the embedding's tokens")

    def shape(self) -> UNetShape:
        """Return the model's own configuration.

        Raises:
            ValueError: the U-Net cannot be built.
        """
        return UNetShape(**dict(self))


class TransformerSection(ConfigModel):
    """A diffusion transformer; see models.decoders.latent_diffusion.spec.TransformerShape."""

    kind: Literal["dit"]
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 4
    head_dim: PositiveInt = 32
    patch_size: PositiveInt = Field(1, description="latent places per side of a token")

    def shape(self) -> TransformerShape:
        """Return the model's own configuration.

        Raises:
            ValueError: the transformer cannot be built.
        """
        return TransformerShape(**dict(self))


class ConditioningSection(ConfigModel):
    """How the embedding enters; see models.decoders.conditioning."""

    num_tokens: PositiveInt = Field(8, description="tokens that the embedding is projected to")
    token_dim: PositiveInt = 128
    layout_channels: int = Field(16, ge=0, description="channels of the map drawn from the embedding; 0: no map")
    layout_resolution: PositiveInt = 8
    layout_hidden: PositiveInt = 512
    empty_probability: float = Field(0.1, ge=0, lt=1, description="share of embeddings replaced by the empty one")
    embedding_noise: float = Field(0.1, ge=0, description="noise on embeddings in training, in their deviations")


class LatentDiffusionConfig(TextTunedConfig):
    """Train a diffusion on the latents that encode_latents made by the autoencoder of train_autoencoder.

    The images' resolution is the autoencoder's; ``resolution`` has to say the same.
    """

    stage: ClassVar[str] = "train_decoder"

    kind: Literal["latent_diffusion"]
    network: Annotated[UNetSection | TransformerSection, Field(discriminator="kind")] = UNetSection(kind="unet")
    conditioning: ConditioningSection = ConditioningSection()
    process: ProcessSection = ProcessSection()
    gradient_checkpointing: bool = Field(False, description="less memory for activations, more time")
    training: TrainingConfig = TrainingConfig(
        num_steps=1000,
        batch_size=32,
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        warmup_steps=50,
        schedule="cosine",
        ema_decay=0.99,
        checkpoint_interval=200,
    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings, the latents, and the autoencoder that draws images from them."""
        return ("download_shards", "embed_clip", "train_autoencoder", "encode_latents")

    @model_validator(mode="after")
    def _can_be_built(self) -> "LatentDiffusionConfig":
        self.network.shape()
        return self

    def decoder(
        self, embed_dim: int, autoencoder: AutoencoderConfig, *, scale_factor: float, shift: float
    ) -> LatentDecoderConfig:
        """Return the decoder's own configuration, for embeddings of that width and latents of that kind.

        Raises:
            ValueError: the network does not fit the latents.
        """
        fields: dict[str, Any] = dict(self.conditioning)
        return LatentDecoderConfig(
            embed_dim=embed_dim,
            autoencoder=autoencoder,
            text_dim=embed_dim if self.text else 0,
            scale_factor=scale_factor,
            shift=shift,
            network=self.network.shape(),
            process=self.process.settings(),
            gradient_checkpointing=self.gradient_checkpointing,
            **fields,
        )
