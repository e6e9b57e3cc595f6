"""The specs of the two diffusion priors; no torch.

Papers: Shifted Diffusion for Text-to-image Generation (CVPR 2023, arXiv 2211.15388) for shifted; Hierarchical
Text-Conditional Image Generation with CLIP Latents (DALL-E 2, arXiv 2204.06125) for gaussian.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

from models.diffusion.spec import LossWeight, ProcessConfig, ScheduleSpec, Target
from models.fields import Settings, require, require_positive
from models.priors.spec import (
    MOST_GUIDANCE,
    MOST_STEPS,
    PriorSampler,
    PriorSampling,
    PriorSpec,
    TransformerSpec,
    require_one_space,
)

Selection = Literal["means", "samples"]


Standardise = Literal["none", "global", "gaussian"]


@dataclass(frozen=True, kw_only=True)
class DistilledSpec(Settings):
    """How a prior of few steps was distilled from one of many; see :mod:`models.priors.diffusion.distillation`."""

    num_steps: int = 4
    """Steps of sampling, always so many."""
    teacher_steps: int = 64
    """Steps of the deterministic sampler that they stand for; a multiple of num_steps."""
    guidance_scale: float = 1.0
    """The guidance that is baked in: sampling itself uses none; 1: none."""

    def __post_init__(self) -> None:
        """Refuse steps that do not divide."""
        require_positive(self, "num_steps")
        require(self, "teacher_steps", self.teacher_steps <= MOST_STEPS, f"at most {MOST_STEPS}")
        divides = self.teacher_steps > self.num_steps and self.teacher_steps % self.num_steps == 0
        require(self, "teacher_steps", divides, f"a multiple of num_steps, {self.num_steps}, and more than it")
        require(self, "guidance_scale", 0 <= self.guidance_scale <= MOST_GUIDANCE, f"0 to {MOST_GUIDANCE}")


@dataclass(frozen=True)
class ProcessPriorSpec(PriorSpec):
    """What all priors have in common that learn a process from a Gaussian to the embeddings."""

    from_data: ClassVar[frozenset[str]] = PriorSpec.from_data | {"num_gaussians", "distilled"}
    sampling: ClassVar[Literal["steps", "guidance", "one_step", "fixed"]] = "steps"
    default_sampler: ClassVar[PriorSampler] = "ancestral"
    num_gaussians: int = 1
    network: TransformerSpec = field(default_factory=TransformerSpec)
    target: Target = "sample"
    """What the network predicts; the paper: the clean embedding."""
    standardise: Standardise = "global"
    """Scale of the network's input and output: global, by the training embeddings' mean and standard deviation;
    gaussian, by those of the caption's Gaussian; none, raw embeddings (and texts), as the paper's code has it."""
    distilled: DistilledSpec | None = field(default=None, kw_only=True)
    """How it was made of another prior of the same spec; null: it was not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "num_gaussians")
        require(self, "standardise", self.standardise in get_args(Standardise), "none, global or gaussian")
        _ = self.process
        if self.distilled is not None:
            require(self, "target", self.target != "noise", "sample or velocity where the prior is distilled")
            most = self.max_sampling_steps
            require(self.distilled, "teacher_steps", self.distilled.teacher_steps <= most, f"at most {most}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; of a prior that was not distilled nothing is said of it."""
        values = super().to_dict()
        if self.distilled is None:
            del values["distilled"]
        return values

    def sampling_of(self, wanted: PriorSampling) -> PriorSampling:
        """Return how the prior is sampled where this is wanted; a distilled one knows one way alone."""
        if self.distilled is not None:
            return PriorSampling(num_steps=self.distilled.num_steps, sampler="ddim")
        return replace(wanted, sampler=wanted.sampler or self.default_sampler)

    @property
    def num_sampling_steps(self) -> int:
        """Those of a distilled prior."""
        return 0 if self.distilled is None else self.distilled.num_steps

    @classmethod
    def learns_from_images(cls, section: Any) -> bool:
        """It can: an image itself says which Gaussian it belongs to."""
        return True

    @property
    def selection(self) -> Selection:
        """How a caption's Gaussian is chosen."""
        return "means"

    @property
    def choosing_dim(self) -> int | None:
        """Width of the texts that Gaussians are chosen by, where these are of another space than the images; else None.

        A single Gaussian is chosen by nothing.
        """
        return self.text_dim if self.num_gaussians > 1 else None

    @property
    def learnable(self) -> bool:
        """Whether the Gaussians are trained, too."""
        return False

    @property
    def separation_weight(self) -> float:
        """learnable: xi of method eq. 6."""
        return 0.0

    @property
    def process(self) -> ProcessConfig:
        """The noise process, around the Gaussians."""
        raise NotImplementedError


@dataclass(frozen=True)
class DiffusionPriorSpec(ProcessPriorSpec):
    """What both diffusion priors have in common; :mod:`models.diffusion.loss_weights` has a table of the losses."""

    model: ClassVar[str] = "models.priors.diffusion.model:DiffusionPrior"
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    loss_weight: LossWeight = "p2"
    """Weight by time step; p2: 1 / (1 + SNR), the paper's (method eq. 7)."""
    min_snr_gamma: float = 5.0
    """loss_weight min_snr: where the weight stops to rise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "min_snr_gamma", self.min_snr_gamma > 0, "above 0")

    @property
    def max_sampling_steps(self) -> float:
        """T: times are whole numbers."""
        return self.schedule.num_timesteps

    @property
    def process(self) -> ProcessConfig:
        """The noise process, around the Gaussians; its schedule is the spec's own."""
        return ProcessConfig(
            path="ddpm", target=self.target, loss_weight=self.loss_weight, min_snr_gamma=self.min_snr_gamma
        )


@dataclass(frozen=True)
class ShiftedPriorSpec(DiffusionPriorSpec):
    """Shifted diffusion: each caption's process starts from one of the fitted Gaussians."""

    reads_gaussians: ClassVar[bool] = True

    kind: Literal["shifted"] = field(default="shifted", kw_only=True)
    kappa: float = 5.0
    """Factor on the standard deviations of the Gaussians; the paper: 5."""
    noise_scale: float | None = None
    """A number takes the place of kappa: the noise's std (root mean square over the training captions' Gaussians and
    the dimensions) as a multiple of that of the training embeddings, so that it is as strong as the baseline's of the
    same noise_scale, however narrow the Gaussians are; null: kappa."""
    selection: Selection = "means"
    """A caption's Gaussian: by cosine to the means (method eq. 5), or to samples of each."""
    learnable: bool = False
    """Train the Gaussians too, by method eq. 6 alone."""
    separation_weight: float = 1.0
    """learnable: xi of method eq. 6, on the cosines between the Gaussians selected in a batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "0.1 to 100: sampling starts without noise below that, and in noise alone above"
        require(self, "kappa", 0.1 <= self.kappa <= 100, allowed)
        require_noise_scale(self, self.noise_scale)
        require_one_space(self, "selection", self.selection == "means", "means")
        require(self, "separation_weight", self.separation_weight >= 0, "0 or more")

    @property
    def compared_in_batches(self) -> str:
        """The separation of learnable Gaussians, where it has a weight."""
        compares = self.learnable and self.separation_weight > 0
        return "learnable Gaussians, which are separated from one another within a batch" if compares else ""


@dataclass(frozen=True)
class GaussianPriorSpec(DiffusionPriorSpec):
    """The baseline: every caption's process starts from one Gaussian around 0."""

    kind: Literal["gaussian"] = field(default="gaussian", kw_only=True)
    noise_scale: float | None = None
    """null: N(0, I), as DALL-E 2; a number: its standard deviation in every dimension, as a multiple of the root mean
    square of those of the training embeddings, which is the freedom that kappa gives to kind shifted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_noise_scale(self, self.noise_scale)


def require_noise_scale(spec: PriorSpec, scale: float | None) -> None:
    """Refuse a scale with which sampling would start without noise, or in noise alone."""
    require(spec, "noise_scale", scale is None or 0.01 <= scale <= 100, "0.01 to 100, or null")
