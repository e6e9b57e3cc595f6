"""Trainings beside that on the captioned images: one on all images before it, and the distillation after it."""

from pydantic import Field, PositiveFloat

from models.priors.diffusion.spec import DistilledSpec
from stages.contract.bounds import Count, CountOrZero
from stages.contract.config import Address, ConfigModel
from stages.storage.artifact import Artifact
from stages.training.config import PhasedTrainingConfig, TrainingConfig


class PhaseConfig(ConfigModel):
    """Steps of their own; batch, optimiser and schedule are those of ``training``."""

    num_steps: Count
    learning_rate: PositiveFloat | None = Field(None, description="null: training.learning_rate")
    warmup_steps: CountOrZero | None = Field(None, description="null: training.warmup_steps")

    def own(self, training: TrainingConfig) -> TrainingConfig:
        """Return the training of this phase alone."""
        given = {name: getattr(self, name) for name in PhaseConfig.model_fields}
        return TrainingConfig(**dict(training) | {name: value for name, value in given.items() if value is not None})


class PretrainingConfig(PhaseConfig):
    """Steps before ``training``: on the embeddings of ALL images, captioned or not, with every caption left out."""

    num_steps: Count = Field(description="optimiser steps; those of training.num_steps follow them")

    def before(self, training: TrainingConfig) -> PhasedTrainingConfig:
        """Return both trainings as one; batch, optimiser and schedule are those of ``training``."""
        return PhasedTrainingConfig.of(self.own(training), training)


class DistillationConfig(PhaseConfig):
    """A training after ``training``, by which a prior of few steps is made of the trained one."""

    num_steps: Count = Field(description="optimiser steps")
    sampling_steps: Count = Field(4, description="steps of sampling of the prior that is made")
    teacher_steps: Count = Field(
        64, description="steps of the teacher that they stand for, by DDIM; a multiple of sampling_steps"
    )
    guidance_scale: float = Field(
        1.0, description="guidance of the teacher, which is baked in: the prior that is made samples without; 1: none"
    )
    teacher: Address | None = Field(
        None, description="folder of a trained prior: config.json and model.safetensors, as in prior/ of an artifact "
        "of train_prior, here or at any address that fsspec knows; it takes the place of the steps of training; "
        "null: the prior that these steps make",
    )  # fmt: skip

    @property
    def spec(self) -> DistilledSpec:
        """What the prior that is made says of its making."""
        return DistilledSpec(
            num_steps=self.sampling_steps, teacher_steps=self.teacher_steps, guidance_scale=self.guidance_scale
        )

    def elsewhere(self) -> tuple[Artifact, str] | None:
        """Return where a teacher from elsewhere is: what holds its folder, and the folder's name there."""
        if self.teacher is None:
            return None
        above, _, folder = self.teacher.rstrip("/").rpartition("/")
        return Artifact(above, "train_prior", "teacher"), folder
