"""Settings that all stages share which train on images beside their embeddings."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from models.decoders.sampling import DecoderSampling
from stages.contract.config import RuntimeOnly
from stages.contract.stage import StageConfig
from stages.training.config import TrainingConfig


@dataclass(frozen=True)
class SamplesConfig(DecoderSampling):
    """The grid of images that shows how training goes: held-out embeddings, the same noise every time."""

    num_steps: int = 10
    guidance_scale: float = 1.5
    num_images: PositiveInt = 16


class ImageTrainingConfig(StageConfig):
    """The fields of every such stage; a kind adds its network, and its own defaults for ``training``."""

    uses_gpu: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "training"

    seed: int = 0
    resolution: PositiveInt = Field(64, description="side of the images in pixels")
    training: TrainingConfig
    samples: SamplesConfig = SamplesConfig()
    held_out_images: PositiveInt = Field(64, description="images kept from training; at most a tenth of all")
    cache_gigabytes: Annotated[float, RuntimeOnly(), Field(gt=0)] = Field(
        2.0, description="memory per worker for decoded images"
    )

    @field_validator("training", mode="before", check_fields=False)
    @classmethod
    def _fill_training(cls, given: object) -> object:
        """Keep the stage's own defaults for whatever a section under `training` leaves out."""
        field = cls.model_fields["training"]
        if field.is_required() or not isinstance(given, dict):
            return given
        return {**field.default.model_dump(), **given}

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images and their embeddings."""
        return ("download_shards", "embed_clip")
