"""Which prior to train, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from models.priors.spec import PriorSampling, PriorSolver
from stages.contract.config import ConfigModel
from stages.contract.stage import StageConfig
from stages.formats.captions import CaptionsConfig
from stages.training.config import TrainingConfig

if TYPE_CHECKING:
    from models.priors.spec import TextStateSettings, TransformerSettings

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
TextStates = Literal["t5", "clip"]


class ScheduleConfig(ConfigModel):
    """Noise schedule of the forward process."""

    kind: Literal["linear", "cosine"] = "linear"
    num_timesteps: PositiveInt = Field(1000, description="time steps in training (T)")
    beta_first: float = Field(1e-4, gt=0.0, lt=1.0, description="kind linear: beta at the first time step")
    beta_last: float = Field(0.02, gt=0.0, lt=1.0, description="kind linear: beta at the last time step")


class NetworkConfig(ConfigModel):
    """Size of the transformer: a named one, in which single numbers may be replaced."""

    size: Literal["tiny", "base", "small", "large"] | None = Field(
        "tiny", description="small and large are the paper's (16 and 20 layers of 2048); null: all numbers are given"
    )
    width: PositiveInt | None = Field(None, description="width of a token; null: the size's")
    num_layers: PositiveInt | None = Field(None, description="null: the size's")
    num_heads: PositiveInt | None = Field(None, description="attention heads; null: the size's")
    feed_forward_factor: PositiveFloat | None = Field(
        None, description="inner width of the feed-forward layers / width; null: the size's"
    )
    qk_norm: bool = Field(False, description="normalise queries and keys, which keeps large networks stable")
    gradient_checkpointing: bool = Field(
        False, description="compute a layer again in the backward pass instead of keeping it: less memory, more time"
    )

    @property
    def given(self) -> dict[str, Any]:
        """The numbers that are given beside the size."""
        names = ("width", "num_layers", "num_heads", "feed_forward_factor")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @model_validator(mode="after")
    def _all_without_size(self) -> "NetworkConfig":
        missing = {"width", "num_layers", "num_heads", "feed_forward_factor"} - self.given.keys()
        if self.size is None and missing:
            raise ValueError(
                f"size is null and {', '.join(sorted(missing))} not given: give all numbers, or a size "
                "(tiny, base, small, large)"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "NetworkConfig":
        width, num_heads = self.width, self.num_heads
        if width is None and num_heads is None:
            return self  # the size's own fit
        if width is None or num_heads is None:
            settings = self.settings()  # the one case in which a configuration imports torch
            width, num_heads = settings.width, settings.num_heads
        if width % (2 * num_heads):
            raise ValueError(
                f"width is {width} with num_heads {num_heads}: allowed is a multiple of 2 x num_heads; "
                "change one of them"
            )
        return self

    def settings(self, text_states: "Mapping[str, TextStateSettings] | None" = None) -> "TransformerSettings":
        """Return the model's own settings with the text states that it is to read; imports torch."""
        from models.priors.sizes import settings_of_size
        from models.priors.spec import TransformerSettings

        network = TransformerSettings() if self.size is None else settings_of_size(self.size)
        return replace(
            network,
            **self.given,
            qk_norm=self.qk_norm,
            gradient_checkpointing=self.gradient_checkpointing,
            text_states=dict(text_states or {}),
        )


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """How the prior is evaluated on pairs that it was not trained on."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    fraction: Annotated[
        float, Field(gt=0.0, lt=1.0, description="fraction of the usable pairs held out, by hash of their key")
    ] = 0.1
    max_pairs: Annotated[int, Field(ge=4, description="most held-out pairs that are used")] = 2000
    samples_per_caption: Annotated[
        PositiveInt, Field(description="samples for one caption, whose diversity is measured; 1: it is not measured")
    ] = 2


@dataclass(frozen=True, kw_only=True)
class DiffusionValidationConfig(PriorSolver, ValidationConfig):
    """How a diffusion prior is sampled and evaluated."""

    num_steps: Annotated[
        tuple[PositiveInt, ...], Field(min_length=1, description="numbers of sampling steps to report, ascending")
    ] = (1, 2, 4, 8, 16, 32, 64)

    def __post_init__(self) -> None:
        """Refuse settings that do not go together, and steps out of order."""
        super().__post_init__()
        if list(self.num_steps) != sorted(set(self.num_steps)):
            raise ValueError(f"num_steps is {list(self.num_steps)}: allowed are different numbers in ascending order")

    def with_steps(self, num_steps: int) -> PriorSampling:
        """Return the prior's sampling settings for a number of steps."""
        solver = {item.name: getattr(self, item.name) for item in fields(PriorSolver)}
        return PriorSampling(num_steps=num_steps, **solver)


@dataclass(frozen=True, kw_only=True)
class AutoregressiveValidationConfig(ValidationConfig):
    """How an autoregressive prior is sampled and evaluated."""

    guidance_scale: Annotated[float, Field(ge=0.0, description="classifier-free guidance; 1: none")] = 1.0


class PriorConfig(StageConfig):
    """What all priors have in common."""

    stage: ClassVar[str] = "train_prior"
    code_version: ClassVar[int] = 2

    seed: int = 0
    captions: CaptionsConfig = CaptionsConfig()
    validation: ValidationConfig = ValidationConfig()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings."""
        return ("embed_clip",)


class TrainedPriorConfig(PriorConfig):
    """What all priors that have a network have in common."""

    uses_gpu: ClassVar[bool] = True
    work: ClassVar[Literal["shards", "training", "single"]] = "training"

    network: NetworkConfig = NetworkConfig()
    text_states: tuple[TextStates, ...] | None = Field(
        None, description="token states that the network reads beside the CLIP text embedding: t5, clip; null: all "
        "that embed_clip made; []: none",
    )  # fmt: skip
    text_dropout: Probability = Field(0.1, description="share of captions left out in training, for guidance")
    training: TrainingConfig

    @model_validator(mode="after")
    def _states_once(self) -> "TrainedPriorConfig":
        if self.text_states is not None and len(set(self.text_states)) < len(self.text_states):
            raise ValueError(f"text_states is {list(self.text_states)}: allowed is each of t5 and clip once")
        return self


class DiffusionPriorConfig(TrainedPriorConfig):
    """What both diffusion priors have in common."""

    schedule: ScheduleConfig = ScheduleConfig()
    target: Literal["sample", "noise", "velocity"] = Field(
        "sample", description="what the network predicts; the paper: the clean embedding"
    )
    loss_weight: Literal["p2", "min_snr", "uniform"] = Field(
        "p2", description="weight by time step; p2: 1 / (1 + SNR), the paper's (method eq. 7)"
    )
    min_snr_gamma: PositiveFloat = Field(5.0, description="loss_weight min_snr: where the weight stops to rise")
    validation: DiffusionValidationConfig = DiffusionValidationConfig()

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
    selection: Literal["means", "samples"] = Field(
        "means", description="a caption's Gaussian: by cosine to the means (method eq. 5), or to samples of each"
    )
    learnable: bool = Field(False, description="train the Gaussians too, by method eq. 6 alone")
    separation_weight: NonNegativeFloat = Field(
        1.0,
        description="learnable: xi of method eq. 6, on the cosines between the Gaussians selected in a batch; with "
        "several workers (or gradient_accumulation), in each one's part of it",
    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings and the Gaussians."""
        return ("embed_clip", "fit_gaussians")


class GaussianPriorConfig(DiffusionPriorConfig):
    """The baseline: every caption's process starts from one Gaussian around 0."""

    kind: Literal["gaussian"]
    noise_scale: PositiveFloat | None = Field(
        None,
        description="null: N(0, I), as DALL-E 2; a number: its deviation in every dimension, as a multiple of the root "
        "mean square deviation of the training embeddings, which is the freedom that kappa gives to kind shifted",
    )


class AutoregressivePriorConfig(TrainedPriorConfig):
    """DALL-E 2's other prior: principal components, quantised, predicted one by one."""

    kind: Literal["autoregressive"]
    num_components: PositiveInt = Field(
        description="principal components that are kept; DALL-E 2: 319 of 1024; fewer than the training pairs, and "
        "no more than the dimensions of an embedding"
    )
    num_buckets: PositiveInt = Field(1024, ge=2, description="values that a component can take; DALL-E 2: 1024")
    validation: AutoregressiveValidationConfig = AutoregressiveValidationConfig()


class IdentityPriorConfig(PriorConfig):
    """The text embedding used as image embedding: nothing is trained, it is judged only."""

    work: ClassVar[Literal["shards", "training", "single"]] = "single"

    kind: Literal["identity"]


TrainPriorConfig = Annotated[
    ShiftedPriorConfig | GaussianPriorConfig | AutoregressivePriorConfig | IdentityPriorConfig,
    Field(discriminator="kind"),
]
