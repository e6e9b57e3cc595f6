"""Which autoencoder to train, by which losses, and how."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, model_validator

from models.autoencoders.spec import (
    AdversarySpec,
    AutoencoderNetwork,
    AutoencoderSpec,
    CodebookSettings,
    KLAutoencoderSpec,
    VQAutoencoderSpec,
)
from stages.contract.bounds import Count, Pixels
from stages.contract.config import ConfigModel, ExternalPath, RuntimeOnly
from stages.training.config import MetricNames, TrainingConfig, require_one_pass
from stages.training.images.config import SquaresConfig


class SlopesPerceptual(ConfigModel):
    """No network: differences of neighbouring pixels at several scales. Edges, not meaning."""

    kind: Literal["slopes"]
    weight: NonNegativeFloat = 1.0
    num_scales: Count = 3


class VggPerceptual(ConfigModel):
    """Distance between features of VGG-16; LPIPS without its learned weights."""

    kind: Literal["vgg"]
    weight: NonNegativeFloat = 1.0
    path: ExternalPath = Field(description="torchvision's vgg16 weights: .safetensors, or .pth as torchvision gives it")


class TrainAutoencoderBase(SquaresConfig):
    """The fields of both kinds."""

    stage: ClassVar[str] = "train_autoencoder"
    model_folder: ClassVar[str] = "autoencoder"
    metric_names: ClassVar[MetricNames] = MetricNames(r"held_out_\w+", ("held_out_loss", "held_out_psnr"))
    code_version: ClassVar[int] = 2

    resolution: Pixels = Field(256, description="side of the images in pixels")
    network: AutoencoderNetwork = AutoencoderNetwork()
    absolute_weight: NonNegativeFloat = Field(1.0, description="of the mean absolute error")
    square_weight: NonNegativeFloat = Field(0.0, description="of the mean squared error")
    perceptual: Annotated[SlopesPerceptual | VggPerceptual, Field(discriminator="kind")] | None = Field(
        SlopesPerceptual(kind="slopes"), description="null: none"
    )
    adversary: AdversarySpec | None = Field(None, description="null: none")
    training: TrainingConfig = TrainingConfig(
        num_steps=100_000, batch_size=32, learning_rate=1e-4, betas=(0.5, 0.9), warmup_steps=1000, schedule="cosine",
        ema_decay=0.999,
    )  # fmt: skip
    gradient_checkpointing: Annotated[bool, RuntimeOnly()] = Field(
        False, description="compute levels again in the backward pass: less memory for activations, more time"
    )
    grid_images: Count = Field(16, description="held-out images shown beside their reconstructions")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images."""
        return ("download_shards",)

    @property
    def spec(self) -> AutoencoderSpec:
        """The spec of the autoencoder."""
        raise NotImplementedError

    def has_direction(self, metric: str, step: int) -> bool:
        """Tell whether weights may be compared by it: by the loss until the adversary takes part in it."""
        return metric != "held_out_loss" or self.adversary is None or step < self.adversary.start_step

    @model_validator(mode="after")
    def _can_be_built(self) -> "TrainAutoencoderBase":
        _ = self.spec
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

    @property
    def spec(self) -> KLAutoencoderSpec:
        """The spec of the autoencoder."""
        return KLAutoencoderSpec(resolution=self.resolution, network=self.network)


class TrainVQConfig(TrainAutoencoderBase):
    """An autoencoder with a codebook."""

    kind: Literal["vq"]
    codebook: CodebookSettings = CodebookSettings()
    commitment_weight: NonNegativeFloat = Field(0.25, description="of the encoder's distance from its codes")

    @property
    def spec(self) -> VQAutoencoderSpec:
        """The spec of the autoencoder."""
        return VQAutoencoderSpec(resolution=self.resolution, network=self.network, codebook=self.codebook)

    @model_validator(mode="after")
    def _whole_batches(self) -> "TrainVQConfig":
        require_one_pass(self.training, "kind vq, whose codebook moves by whole batches")
        return self


TrainAutoencoderConfig = Annotated[TrainKLConfig | TrainVQConfig, Field(discriminator="kind")]
