"""How the second super-resolution model of a cascade is trained."""

from typing import ClassVar

from pydantic import Field

from stages.contract.bounds import Pixels
from stages.training.upsampling.config import UpsamplerTrainingConfig


class TrainSecondUpsamplerConfig(UpsamplerTrainingConfig):
    """Train the second super-resolution model of a cascade: the first one's images, enlarged."""

    stage: ClassVar[str] = "train_second_upsampler"

    from_resolution: Pixels = Field(256, description="side of the images that it is to enlarge")
    resolution: Pixels = Field(1024, description="side of the images that it gives")
