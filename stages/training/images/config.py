"""Settings that all stages share which train on images."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from models.decoders.sampling import DecoderSampling
from stages.contract.bounds import MOST_GIGABYTES, Count, Pixels
from stages.contract.config import RuntimeOnly
from stages.formats.splits import SplitConfig
from stages.training.config import MetricNames, TrainStageConfig
from stages.training.images.augmentation_config import ImageAugmentation


@dataclass(frozen=True)
class SamplesConfig(DecoderSampling):
    """The grid of images that shows how training goes: held-out embeddings, the same noise every time."""

    num_steps: int = 10
    guidance_scale: float = 1.5
    num_images: Count = 16


class SquaresConfig(TrainStageConfig):
    """Train on images as squares of one resolution."""

    metric_names: ClassVar[MetricNames] = MetricNames(r"held_out_\w+", ("held_out_loss",))

    resolution: Pixels = Field(64, description="side of the images in pixels")
    split: SplitConfig = Field(SplitConfig(), description="that of the experiment")
    held_out_images: Count = Field(64, description="most images of the split's validation part that are used")
    augmentation: ImageAugmentation | None = Field(
        None, description="random crops and flips of images to train on, for kinds that read pixels; null: none"
    )
    cache_gigabytes: Annotated[float, RuntimeOnly(), Field(gt=0, le=MOST_GIGABYTES)] = Field(
        2.0, description="memory per worker for decoded images"
    )

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; an augmentation counts where there is one."""
        identity = super().identity()
        if self.augmentation is None:
            del identity["augmentation"]
        return identity

    @model_validator(mode="after")
    def _augments_what_it_reads(self) -> "SquaresConfig":
        if self.augmentation is not None and "encode_latents" in self.inputs:
            raise ValueError(
                "augmentation is given to a kind that reads encoded images: allowed is null; augment in "
                "train_autoencoder, or choose a kind that reads pixels"
            )
        return self


class ImageTrainingConfig(SquaresConfig):
    """Train on images beside their embeddings; a kind adds its network, and its own defaults for ``training``."""

    samples: SamplesConfig = SamplesConfig()

    @model_validator(mode="after")
    def _shows_images_at_their_sizes(self) -> "ImageTrainingConfig":
        if self.samples.size is not None:
            raise ValueError(
                f"samples.size is {self.samples.size!r}: allowed is null, as held-out images are shown at the size "
                "that they are trained on; leave it out"
            )
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images and their embeddings."""
        return ("download_shards", "embed_clip")
