"""Which prior to train, and how."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from stages.captions import CaptionsConfig
from stages.contract import ConfigModel, StageConfig
from stages.training.config import TrainingConfig

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class ScheduleConfig(ConfigModel):
    """Noise schedule of the forward process."""

    kind: Literal["linear", "cosine"] = "linear"
    num_timesteps: PositiveInt = Field(1000, description="time steps in training (T)")
    beta_first: float = Field(1e-4, gt=0.0, lt=1.0, description="kind linear: beta at the first time step")
    beta_last: float = Field(0.02, gt=0.0, lt=1.0, description="kind linear: beta at the last time step")


class NetworkConfig(ConfigModel):
    """Size of the transformer."""

    width: PositiveInt = Field(128, description="width of a token; the paper: 2048")
    num_layers: PositiveInt = Field(3, description="the paper: 16 and 20")
    num_heads: PositiveInt = Field(4, description="attention heads; the paper: 32")
    feed_forward_factor: PositiveFloat = Field(4.0, description="inner width of the feed-forward layers / width")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "NetworkConfig":
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"width is {self.width} with num_heads {self.num_heads}: allowed is a multiple of 2 x num_heads; "
                "change one of them"
            )
        return self


class ValidationConfig(ConfigModel):
    """How the prior is judged on pairs that it was not trained on."""

    fraction: float = Field(0.1, gt=0.0, lt=1.0, description="share of the usable pairs held out, by hash of their key")
    max_pairs: PositiveInt = Field(2000, ge=2, description="most held-out pairs that are used")
    num_steps: tuple[PositiveInt, ...] = Field(
        (1, 2, 4, 8, 16, 32, 64), min_length=1, description="numbers of sampling steps to report, ascending"
    )
    guidance_scale: float = Field(1.0, ge=0.0, description="classifier-free guidance when sampling; 1: none")

    @model_validator(mode="after")
    def _steps_ascend(self) -> "ValidationConfig":
        if list(self.num_steps) != sorted(set(self.num_steps)):
            raise ValueError(f"num_steps is {list(self.num_steps)}: allowed are different numbers in ascending order")
        return self


class DiffusionPriorConfig(StageConfig):
    """What both diffusion priors have in common."""

    stage: ClassVar[str] = "train_prior"
    uses_gpu: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "training"

    seed: int = 0
    captions: CaptionsConfig = CaptionsConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    network: NetworkConfig = NetworkConfig()
    text_dropout: Probability = Field(0.1, description="share of captions left out in training, for guidance")
    validation: ValidationConfig = ValidationConfig()
    training: TrainingConfig

    @model_validator(mode="after")
    def _steps_within_schedule(self) -> "DiffusionPriorConfig":
        most = self.validation.num_steps[-1]
        if most > self.schedule.num_timesteps:
            raise ValueError(
                f"validation.num_steps asks for {most} sampling steps: allowed is at most schedule.num_timesteps, "
                f"which is {self.schedule.num_timesteps}"
            )
        return self


class ShiftedPriorConfig(DiffusionPriorConfig):
    """Shifted diffusion: each caption's process starts from one of the fitted Gaussians."""

    kind: Literal["shifted"]
    kappa: PositiveFloat = Field(5.0, description="factor on the Gaussians' deviations; the paper: 5")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings and the Gaussians."""
        return ("embed_clip", "fit_gaussians")


class GaussianPriorConfig(DiffusionPriorConfig):
    """The baseline (DALL-E 2): every caption's process starts from N(0, I)."""

    kind: Literal["gaussian"]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings."""
        return ("embed_clip",)


TrainPriorConfig = Annotated[ShiftedPriorConfig | GaussianPriorConfig, Field(discriminator="kind")]
