"""Which prior to train, and how."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Union

from pydantic import Field, PositiveFloat, model_validator

from models.fields import ABSENT, MOST_FACTOR
from models.priors.registry import SPECS
from models.priors.sizes import NetworkSize, transformer_of_size
from models.priors.spec import (
    LearnedFrom,
    PriorSampling,
    PriorSolver,
    PriorSpec,
    TextStateSpec,
    TransformerSpec,
    prior_keys,
)
from stages.contract.bounds import Count, Seed
from stages.contract.config import ConfigModel, section_of, spec_from
from stages.contract.stage import StageConfig
from stages.formats.captions import CaptionsConfig
from stages.formats.splits import SplitConfig
from stages.train_prior.phases_config import DistillationConfig, PretrainingConfig
from stages.training.config import LoopConfig, MetricNames, TrainingConfig, TrainingPart, require_one_pass

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
TextStates = Literal["t5", "language_model", "clip"]
_NUMBERS: Final = ("width", "num_layers", "num_heads", "feed_forward_factor")
TEACHER: Final = "teacher"
"""The folder of a distilled prior's teacher in the artifact."""
ANY_WIDTH: Final = 1 << 30  # of embeddings, where a section is checked before there are any


class NetworkConfig(ConfigModel):
    """Size of the transformer: a named one, in which single numbers may be replaced."""

    size: NetworkSize | None = Field(
        "tiny", description="small and large are the paper's (16 and 20 layers of 2048); null: all numbers are given"
    )
    width: Count | None = Field(None, description="width of a token; null: the size's")
    num_layers: Count | None = Field(None, description="null: the size's")
    num_heads: Count | None = Field(None, description="attention heads; null: the size's")
    feed_forward_factor: PositiveFloat | None = Field(
        None, le=MOST_FACTOR, description="inner width of the feed-forward layers / width; null: the size's"
    )
    qk_norm: bool = Field(False, description="normalise queries and keys, which keeps large networks stable")
    gradient_checkpointing: bool = Field(
        False, description="compute a layer again in the backward pass instead of keeping it: less memory, more time"
    )

    @model_validator(mode="after")
    def _can_be_built(self) -> "NetworkConfig":
        missing = set(_NUMBERS) - self._numbers.keys()
        if missing:
            raise ValueError(
                f"size is null and {', '.join(sorted(missing))} not given: give all numbers, or a size "
                "(tiny, base, small, large)"
            )
        width, num_heads = (self._numbers[name] for name in ("width", "num_heads"))
        if width % (2 * num_heads):
            raise ValueError(
                f"width is {width} with num_heads {num_heads}: allowed is a multiple of 2 x num_heads; "
                "change one of them"
            )
        return self

    @property
    def _numbers(self) -> dict[str, Any]:
        """The numbers of the size, but for those that are given."""
        given = {name: value for name in _NUMBERS if (value := getattr(self, name)) is not None}
        return ({} if self.size is None else asdict(transformer_of_size(self.size))) | given

    def spec(self, text_states: Mapping[str, TextStateSpec] | None = None) -> TransformerSpec:
        """Return the network's spec with the text states that it is to read."""
        flags = {"qk_norm": self.qk_norm, "gradient_checkpointing": self.gradient_checkpointing}
        return TransformerSpec(**self._numbers | flags | {"text_states": dict(text_states or {})})


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """How the prior is evaluated on pairs that it was not trained on."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "allow_inf_nan": False}

    max_pairs: Annotated[Count, Field(ge=4, description="most pairs of the split's validation part that are used")] = (
        2000
    )
    samples_per_caption: Annotated[
        Count, Field(description="samples for one caption, whose diversity is measured; 1: it is not measured")
    ] = 2
    all_captions: Annotated[
        bool | None,
        Field(description="also on held-out images whose captions captions.fraction leaves out, so that trainings with "
              "other fractions are evaluated on the same pairs"),
    ] = field(default=None, metadata=ABSENT)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DiffusionValidationConfig(PriorSolver, ValidationConfig):
    """How a diffusion prior is sampled and evaluated."""

    num_steps: Annotated[
        tuple[Count, ...], Field(min_length=1, description="numbers of sampling steps to report, ascending")
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
    """Train a prior on the captioned embeddings; a kind adds the settings of its spec."""

    stage: ClassVar[str] = "train_prior"
    code_version: ClassVar[int] = 5
    work: ClassVar[Literal["shards", "training", "single"]] = "single"
    spec_class: ClassVar[type[PriorSpec]]

    kind: str
    seed: Seed = 0
    captions: CaptionsConfig = CaptionsConfig()
    split: SplitConfig = Field(SplitConfig(), description="that of the experiment")
    validation: ValidationConfig = ValidationConfig()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The embeddings, and the Gaussians if the kind reads them."""
        return ("embed_clip", "fit_gaussians") if self.spec_class.uses_gaussians(self) else ("embed_clip",)

    @property
    def learned_from(self) -> LearnedFrom:
        """Whether it learns from captions, from images alone, or from both."""
        return "pairs"

    @model_validator(mode="after")
    def _captions_are_of_one_kind(self) -> "PriorConfig":
        if self.validation.all_captions and self.captions.reads_pseudo:
            raise ValueError(
                "validation.all_captions is true with pseudo-captions (captions.mix.pseudo above 0): allowed is human "
                "captions alone: set captions.mix.pseudo to 0, or leave validation.all_captions out"
            )
        return self

    @model_validator(mode="after")
    def _can_be_built(self) -> "PriorConfig":
        self.spec(embed_dim=ANY_WIDTH)
        return self

    def spec(
        self,
        *,
        embed_dim: int,
        text_dim: int | None = None,
        num_gaussians: int = 1,
        text_states: Mapping[str, TextStateSpec] | None = None,
    ) -> PriorSpec:
        """Return the prior's spec, for embeddings, Gaussians and text states of these sizes.

        ``text_dim`` is the width of text embeddings where they are of another space than the images'.
        """
        given: dict[str, Any] = {"embed_dim": embed_dim, "learned_from": self.learned_from, "text_dim": text_dim}
        if self.spec_class.uses_gaussians(self):
            given["num_gaussians"] = num_gaussians
        if isinstance(self, TrainedPriorConfig):
            given["network"] = self.network.spec(text_states)
        return spec_from(self, self.spec_class, **given)


class TrainedPriorConfig(LoopConfig, PriorConfig):
    """What all priors that have a network have in common."""

    model_folder: ClassVar[str] = "prior"
    metric_names: ClassVar[MetricNames] = MetricNames(
        r"(reference/)?(cosine_\w+|retrieval_at_\d+|\w+_ratio|frechet(_rows|_bias)?|c?mmd|diversity)(/(steps|time)_.+)?",
        ("cosine_true", "cosine_centred", "retrieval_at_1", "mmd"),
    )

    network: NetworkConfig = NetworkConfig()
    text_states: tuple[TextStates, ...] | None = Field(
        None, description="token states that the network reads beside the CLIP text embedding: t5, language_model, "
        "clip; null: all that embed_clip made; []: none",
    )  # fmt: skip
    text_dropout: Probability = Field(
        0.1, description="fraction of captions left out in training, for guidance; 1: learn from the embeddings of all "
        "images, and no caption, a prior that generates without prompts",
    )  # fmt: skip
    pretraining: PretrainingConfig | None = Field(
        None, description="steps on all images without captions before those on the captioned ones; null: none"
    )

    @property
    def learned_from(self) -> LearnedFrom:
        """Whether it learns from captions, from images alone, or from the one after the other."""
        if self.text_dropout == 1.0:
            return "images"
        return "pairs" if self.pretraining is None else "images_then_pairs"

    @property
    def all_training(self) -> TrainingConfig:
        """The training, with what comes before it."""
        return self.training if self.pretraining is None else self.pretraining.before(self.training)

    @model_validator(mode="after")
    def _can_leave_captions_out(self) -> "TrainedPriorConfig":
        if self.pretraining is not None:
            if self.text_dropout == 1.0:
                raise ValueError(
                    "pretraining is given with text_dropout 1, which learns from no caption afterwards: "
                    "leave pretraining out, or lower text_dropout"
                )
            _ = self.all_training
        if self.learned_from != "pairs" and not self.spec_class.learns_from_images(self):
            key = "text_dropout is 1" if self.pretraining is None else "pretraining is given"
            raise ValueError(
                f"{key} with kind {self.kind}, which has nothing to learn from images without captions: allowed are "
                "kinds shifted, gaussian, flow (not from source text) and autoregressive: choose one, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _pairs_are_compared_in_whole_batches(self) -> "TrainedPriorConfig":
        if why := self.spec(embed_dim=ANY_WIDTH).compared_in_batches:
            require_one_pass(self.training, why)
        return self

    @model_validator(mode="after")
    def _states_once(self) -> "TrainedPriorConfig":
        if self.text_states is not None and len(set(self.text_states)) < len(self.text_states):
            raise ValueError(
                f"text_states is {list(self.text_states)}: allowed is each of t5, language_model and clip once"
            )
        return self


class SolvedPriorConfig(TrainedPriorConfig):
    """What all priors have in common that are sampled step by step."""

    validation: DiffusionValidationConfig = DiffusionValidationConfig()
    distillation: DistillationConfig | None = Field(
        None, description="then make a prior of few steps of the trained one; null: do not"
    )

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; a distillation counts where there is one."""
        identity = super().identity()
        if self.distillation is None:
            del identity["distillation"]
        return identity

    @property
    def can_go_on(self) -> bool:
        """Whether a training of more steps can go on from this one; a distillation begins when all are taken."""
        return super().can_go_on and self.distillation is None

    @property
    def parts(self) -> tuple[TrainingPart, ...]:
        """The trainings: of a distilled prior, that of the teacher, unless it is from elsewhere, and the student's."""
        if self.distillation is None or self.distillation.teacher is not None:
            return super().parts
        return TrainingPart(TEACHER, f"{TEACHER}_"), TrainingPart(first_step=self.all_training.num_steps)

    @model_validator(mode="after")
    def _can_be_distilled(self) -> "SolvedPriorConfig":
        if self.distillation is None:
            return self
        own = self.distillation
        warmup = self.training.warmup_steps if own.warmup_steps is None else own.warmup_steps
        if warmup >= own.num_steps:
            raise ValueError(
                f"distillation.warmup_steps is {warmup}: allowed is less than distillation.num_steps, which is "
                f"{own.num_steps}; lower it or raise them (null: training.warmup_steps)"
            )
        if self.distillation.teacher is not None and self.init_from is not None:
            raise ValueError(
                "init_from is given with distillation.teacher, as which the distilled prior begins: leave one out"
            )
        if self.distillation.teacher is not None and self.pretraining is not None:
            raise ValueError(
                "pretraining is given with distillation.teacher, which is trained already: leave one of them out"
            )
        try:
            undistilled: Any = self.spec(embed_dim=ANY_WIDTH)
            replace(undistilled, distilled=self.distillation.spec)
        except ValueError as error:
            raise ValueError(f"distillation (sampling_steps is num_steps there): {error}") from error
        return self

    @model_validator(mode="after")
    def _steps_within_schedule(self) -> "SolvedPriorConfig":
        spec, sampler = self.spec(embed_dim=ANY_WIDTH), self.validation.sampler
        if sampler in ("euler", "heun") and not spec.is_flow:
            raise ValueError(
                f"validation.sampler is {sampler} with kind {self.kind}: allowed are ancestral, ddim and dpm_solver, "
                "or kind flow"
            )
        most, allowed = self.validation.num_steps[-1], spec.max_sampling_steps
        if most > allowed:
            raise ValueError(
                f"validation.num_steps asks for {most} sampling steps: allowed is at most schedule.num_timesteps, "
                f"which is {allowed}"
            )
        return self


class GuidedPriorConfig(TrainedPriorConfig):
    """What all priors have in common of whose sampling the guidance alone can be chosen."""

    validation: AutoregressiveValidationConfig = AutoregressiveValidationConfig()


_BASES: Final = {
    "steps": SolvedPriorConfig,
    "guidance": GuidedPriorConfig,
    "one_step": TrainedPriorConfig,
    "fixed": PriorConfig,
}


def _section(spec: type[PriorSpec]) -> type[PriorConfig]:
    """Return the section of a kind: its keys are the spec's fields, but those that the data or the network give."""
    section: type[PriorConfig] = section_of(spec, prior_keys(spec), base=_BASES[spec.sampling], module=__name__)
    section.spec_class, section.code_version = spec, spec.version
    return section


SECTIONS: Final = {kind: _section(spec) for kind, spec in SPECS.items()}
globals().update({section.__name__: section for section in SECTIONS.values()})  # pickle finds classes by name

if TYPE_CHECKING:
    TrainPriorConfig = PriorConfig
else:
    TrainPriorConfig = Annotated[Union[tuple(SECTIONS.values())], Field(discriminator="kind")]  # noqa: UP007
