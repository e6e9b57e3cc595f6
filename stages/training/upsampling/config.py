"""A super-resolution model: sizes, network, noise process, and how it is trained."""

import math
from typing import Self

from pydantic import Field, PositiveInt, model_validator

from models.decoders.upsampler.spec import UpsamplerConfig
from stages.contract.config import ConfigModel
from stages.training.config import TrainingConfig
from stages.training.images.config import ImageTrainingConfig
from stages.training.images.process import ProcessSection


class UpsamplerNetworkConfig(ConfigModel):
    """The network; see models.decoders.upsampler.spec.UpsamplerConfig."""

    unshuffle: PositiveInt = Field(4, description="pixels per side of the blocks that the U-Net works on")
    channels: tuple[PositiveInt, ...] = Field((128, 256), description="U-Net width by level")
    blocks_per_level: PositiveInt = 2
    max_noise: float = Field(
        0.5, ge=0, le=1, description="largest deviation of the noise on the small image, which forgives its faults"
    )
    empty_probability: float = Field(0.1, ge=0, lt=1, description="share of embeddings replaced by the empty one")
    embedding_noise: float = Field(0.1, ge=0, description="noise on embeddings in training, in their deviations")
    gradient_checkpointing: bool = Field(False, description="less memory for activations, more time")


class UpsamplerTrainingConfig(ImageTrainingConfig):
    """Train a super-resolution model on all images, with no other model at hand."""

    from_resolution: PositiveInt
    resolution: PositiveInt
    crop: PositiveInt | None = Field(
        None, description="side of the random part of an image that is trained on; null: whole images"
    )
    network: UpsamplerNetworkConfig = UpsamplerNetworkConfig()
    process: ProcessSection = ProcessSection()
    training: TrainingConfig

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        shape = self.upsampler(1)
        if self.crop is not None and (self.crop > self.resolution or self.crop % self.crop_unit(shape)):
            raise ValueError(
                f"crop is {self.crop}: allowed is a multiple of {self.crop_unit(shape)} (network and enlargement) up "
                f"to resolution, which is {self.resolution}"
            )
        return self

    @staticmethod
    def crop_unit(shape: UpsamplerConfig) -> int:
        """Return what a crop's side must be a multiple of."""
        return math.lcm(shape.cell, shape.factor)

    def upsampler(self, embed_dim: int) -> UpsamplerConfig:
        """Return the model's own configuration, for embeddings of that width.

        Raises:
            ValueError: the network cannot be built at these resolutions.
        """
        return UpsamplerConfig(
            embed_dim=embed_dim,
            from_resolution=self.from_resolution,
            resolution=self.resolution,
            process=self.process.settings(),
            **dict(self.network),
        )
