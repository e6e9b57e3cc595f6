"""Settings that all stages share which train on images."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from models.decoders.sampling import DecoderSampling
from stages.contract.config import RuntimeOnly
from stages.formats.splits import SplitConfig
from stages.training.config import TrainStageConfig


@dataclass(frozen=True)
class SamplesConfig(DecoderSampling):
    """The grid of images that shows how training goes: held-out embeddings, the same noise every time."""

    num_steps: int = 10
    guidance_scale: float = 1.5
    num_images: PositiveInt = 16


class SquaresConfig(TrainStageConfig):
    """Train on images as squares of one resolution."""

    resolution: PositiveInt = Field(64, description="side of the images in pixels")
    split: SplitConfig = Field(SplitConfig(), description="that of the experiment")
    held_out_images: PositiveInt = Field(64, description="most images of the split's validation part that are used")
    cache_gigabytes: Annotated[float, RuntimeOnly(), Field(gt=0)] = Field(
        2.0, description="memory per worker for decoded images"
    )


class ImageTrainingConfig(SquaresConfig):
    """Train on images beside their embeddings; a kind adds its network, and its own defaults for ``training``."""

    samples: SamplesConfig = SamplesConfig()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images and their embeddings."""
        return ("download_shards", "embed_clip")
