"""Which autoencoder to train, by which losses, and how."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator

from models.autoencoders.spec import AutoencoderConfig
from stages.contract.config import ConfigModel, ExternalPath, RuntimeOnly
from stages.contract.stage import StageConfig
from stages.training.config import TrainingConfig


class NetworkConfig(ConfigModel):
    """Encoder and decoder; see models.autoencoders.spec.AutoencoderConfig."""

    unshuffle: PositiveInt = Field(1, description="pixels per side of the blocks that the first level works on")
    channels: tuple[PositiveInt, ...] = Field((128, 256, 512, 512), description="width by level; each halves the grid")
    blocks_per_level: PositiveInt = 2
    latent_channels: PositiveInt = 4
    attention: bool = Field(True, description="whether the places of the smallest grid attend to one another")


class CodebookConfig(ConfigModel):
    """The codebook of kind vq."""

    num_codes: PositiveInt = 8192
    code_decay: float = Field(0.99, ge=0, lt=1, description="decay of the averages that the codebook is made of")
    dead_fraction: float = Field(0.03, ge=0, lt=1, description="a code used less, as a share of the mean use, is moved")


class SlopesPerceptual(ConfigModel):
    """No network: differences of neighbouring pixels at several scales. Edges, not meaning."""

    kind: Literal["slopes"]
    weight: NonNegativeFloat = 1.0
    num_scales: PositiveInt = 3


class VggPerceptual(ConfigModel):
    """Distance between features of VGG-16; LPIPS without its learned weights."""

    kind: Literal["vgg"]
    weight: NonNegativeFloat = 1.0
    path: ExternalPath = Field(description="torchvision's vgg16 weights: .safetensors, or .pth as torchvision gives it")


class AdversaryConfig(ConfigModel):
    """A discriminator of patches."""

    weight: NonNegativeFloat = Field(0.1, description="of the generator's term, beside the error's 1")
    start_step: NonNegativeInt = Field(0, description="the step from which it takes part")
    width: PositiveInt = Field(64, multiple_of=8)
    num_layers: PositiveInt = 3


class TrainAutoencoderBase(StageConfig):
    """What both kinds are told."""

    stage: ClassVar[str] = "train_autoencoder"
    uses_gpu: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "training"

    seed: int = 0
    resolution: PositiveInt = Field(256, description="side of the images in pixels")
    network: NetworkConfig = NetworkConfig()
    absolute_weight: NonNegativeFloat = Field(1.0, description="of the mean absolute error")
    square_weight: NonNegativeFloat = Field(0.0, description="of the mean squared error")
    perceptual: Annotated[SlopesPerceptual | VggPerceptual, Field(discriminator="kind")] | None = Field(
        SlopesPerceptual(kind="slopes"), description="null: none"
    )
    adversary: AdversaryConfig | None = Field(None, description="null: none")
    training: TrainingConfig = TrainingConfig(
        num_steps=100_000,
        batch_size=32,
        learning_rate=1e-4,
        betas=(0.5, 0.9),
        warmup_steps=1000,
        schedule="cosine",
        ema_decay=0.999,
    )
    gradient_checkpointing: Annotated[bool, RuntimeOnly()] = Field(
        False, description="compute levels again in the backward pass: less memory for activations, more time"
    )
    held_out_images: PositiveInt = Field(64, description="images kept from training; at most a tenth of all")
    grid_images: PositiveInt = Field(16, description="held-out images shown beside their reconstructions")
    cache_gigabytes: Annotated[float, RuntimeOnly(), Field(gt=0)] = Field(
        2.0, description="memory per worker for decoded images"
    )

    @field_validator("training", mode="before")
    @classmethod
    def _fill_training(cls, given: object) -> object:
        """Keep this stage's own defaults for whatever a section under `training` leaves out."""
        defaults = cls.model_fields["training"].default
        return {**defaults.model_dump(), **given} if isinstance(given, dict) else given

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images."""
        return ("download_shards",)

    def model(self) -> AutoencoderConfig:
        """Return the autoencoder's own configuration.

        Raises:
            ValueError: the network cannot be built at this resolution.
        """
        return AutoencoderConfig(**self._model_fields())

    def _model_fields(self) -> dict[str, Any]:
        raise NotImplementedError

    @model_validator(mode="after")
    def _can_be_built(self) -> "TrainAutoencoderBase":
        self.model()
        return self

    @model_validator(mode="after")
    def _whole_adversary(self) -> "TrainAutoencoderBase":
        if self.adversary is not None and self.training.zero_stage == 3:
            raise ValueError(
                "training.zero_stage is 3 with an adversary, whose weights the generator's loss reads whole: allowed "
                "are 0, 1 and 2: lower it, or set adversary to null"
            )
        return self


class TrainKLConfig(TrainAutoencoderBase):
    """An autoencoder whose latents have a normal distribution."""

    kind: Literal["kl"]
    kl_weight: NonNegativeFloat = Field(1e-6, description="of the divergence in nats per number of the image")

    def _model_fields(self) -> dict[str, Any]:
        return {"kind": "kl", "resolution": self.resolution, **dict(self.network)}


class TrainVQConfig(TrainAutoencoderBase):
    """An autoencoder with a codebook."""

    kind: Literal["vq"]
    codebook: CodebookConfig = CodebookConfig()
    commitment_weight: NonNegativeFloat = Field(0.25, description="of the encoder's distance from its codes")

    def _model_fields(self) -> dict[str, Any]:
        return {"kind": "vq", "resolution": self.resolution, **dict(self.network), **dict(self.codebook)}

    @model_validator(mode="after")
    def _whole_batches(self) -> "TrainVQConfig":
        if self.training.gradient_accumulation > 1:
            raise ValueError(
                f"training.gradient_accumulation is {self.training.gradient_accumulation} with kind vq, whose codebook "
                "moves by whole batches: allowed is 1: lower batch_size, or train on more workers"
            )
        return self


TrainAutoencoderConfig = Annotated[TrainKLConfig | TrainVQConfig, Field(discriminator="kind")]
