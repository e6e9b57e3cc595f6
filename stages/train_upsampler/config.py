"""How the first super-resolution model of a cascade is trained."""

from typing import ClassVar

from pydantic import Field

from stages.contract.bounds import Pixels
from stages.training.upsampling.config import UpsamplerTrainingConfig


class TrainUpsamplerConfig(UpsamplerTrainingConfig):
    """Train the first super-resolution model of a cascade: the decoder's images, enlarged."""

    stage: ClassVar[str] = "train_upsampler"

    from_resolution: Pixels = Field(64, description="side of the images that it is to enlarge")
    resolution: Pixels = Field(256, description="side of the images that it gives")
