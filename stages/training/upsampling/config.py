"""A super-resolution model: sizes, network, noise process, and how it is trained."""

import math
from typing import ClassVar, Self

from pydantic import Field, model_validator

from models.decoders.upsampler.spec import UpsamplerSpec, UpsamplerUNet
from models.diffusion.spec import ProcessConfig
from stages.contract.bounds import Pixels
from stages.contract.config import spec_from
from stages.training.config import TrainingConfig
from stages.training.images.config import ImageTrainingConfig


class UpsamplerTrainingConfig(ImageTrainingConfig):
    """Train a super-resolution model on all images, with no other model at hand."""

    code_version: ClassVar[int] = 2
    model_folder: ClassVar[str] = "upsampler"

    from_resolution: Pixels
    resolution: Pixels
    crop: Pixels | None = Field(
        None, description="side of the random part of an image that is trained on; null: whole images"
    )
    network: UpsamplerUNet = UpsamplerUNet()
    process: ProcessConfig = ProcessConfig()
    training: TrainingConfig

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        spec = self.spec(1)
        unit = math.lcm(spec.cell, spec.factor)
        if self.crop is not None and (self.crop > self.resolution or self.crop % unit):
            raise ValueError(
                f"crop is {self.crop}: allowed is a multiple of {unit} (network and enlargement) up "
                f"to resolution, which is {self.resolution}"
            )
        return self

    def spec(self, embed_dim: int) -> UpsamplerSpec:
        """Return the model's spec, for embeddings of that width."""
        return spec_from(self, UpsamplerSpec, embed_dim=embed_dim)
