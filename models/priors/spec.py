"""What the specs of all priors share, as plain data: it imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pkgutil import resolve_name
from typing import Any, ClassVar, Literal, get_args

from models.diffusion.spec import SolverSpec, Variance
from models.fields import ABSENT, MOST_FACTOR, Settings, Spec, require, require_positive

PriorSampler = Literal["ancestral", "ddim", "dpm_solver", "euler", "heun"]
LearnedFrom = Literal["pairs", "images", "images_then_pairs"]
MOST_STEPS = 10_000  # settings come from image files too, which anybody may have written
MOST_GUIDANCE = 1_000
TEXT_ENCODERS = ("t5", "language_model", "clip")


@dataclass(frozen=True, kw_only=True)
class PriorSolver(SolverSpec):
    """How embeddings are sampled from a trained prior, but for the number of steps.

    A prior reads those settings that it has a use for, a distilled one none of them: ``sampler`` ancestral is method
    eq. 3, ddim is random as far as ``eta`` says (0 on the path flow: Euler's method), dpm_solver is DPM-Solver++, euler
    and heun are for kind flow; null is ancestral, and euler for kind flow. ``guidance_rescale`` takes back that much of
    the inflation that guidance causes (arXiv 2305.08891, section 3.4). Guidance holds between the times
    ``guidance_start`` and ``guidance_end`` alone, as fractions of the way from data (0) to noise (1) (arXiv
    2404.07724).
    """

    default_variance: ClassVar[Variance] = "large"

    sampler: PriorSampler | None = None
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1: none."""
    guidance_rescale: float = 0.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "guidance_scale", 0 <= self.guidance_scale <= MOST_GUIDANCE, f"0 to {MOST_GUIDANCE}")
        require(self, "guidance_end", 0 <= self.guidance_start < self.guidance_end <= 1, "0 to 1, above guidance_start")
        require(self, "guidance_rescale", 0 <= self.guidance_rescale <= 1, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class PriorSampling(PriorSolver):
    """How embeddings are sampled from a trained prior."""

    num_steps: int = 64
    """Steps from noise to embedding; the paper: 64."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "num_steps", 1 <= self.num_steps <= MOST_STEPS, f"1 to {MOST_STEPS}")


@dataclass(frozen=True)
class TextStateSpec:
    """Token states of a text encoder that the network reads: their width, and how many of them at most."""

    width: int
    max_length: int = 80


@dataclass(frozen=True)
class TransformerSpec(Settings):
    """Size of the network.

    ``text_states`` names the text encoders whose token states come before all other tokens, in the order of
    TEXT_ENCODERS, in whatever order they are given (files of JSON have their keys sorted); without any, the caption
    enters by its CLIP embedding alone.
    """

    width: int = 128
    num_layers: int = 3
    num_heads: int = 4
    feed_forward_factor: float = 4.0
    """Inner width of the feed-forward layers / width."""
    qk_norm: bool = False
    """Normalise queries and keys, which keeps large networks stable."""
    gradient_checkpointing: bool = False
    """Compute a layer again in the backward pass instead of keeping it: less memory, more time."""
    text_states: dict[str, TextStateSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Bring the text encoders into their order, and refuse a width that the heads do not divide."""
        names = sorted(self.text_states, key=lambda name: (*TEXT_ENCODERS, name).index(name))
        object.__setattr__(self, "text_states", {name: self.text_states[name] for name in names})
        require_positive(self, "width", "num_layers", "num_heads")
        require(
            self, "feed_forward_factor", 0.0 < self.feed_forward_factor <= MOST_FACTOR, f"above 0 up to {MOST_FACTOR}"
        )
        require(self, "width", self.width % self.num_heads == 0, f"a multiple of num_heads, {self.num_heads}")


@dataclass(frozen=True)
class PriorSpec(Spec):
    """Everything that fixes a prior except its numbers (weights, Gaussians, statistics); a kind adds its fields.

    Fields in ``from_data`` come from the training data; all others are keys of the kind's section.
    """

    from_data: ClassVar[frozenset[str]] = frozenset({"kind", "embed_dim", "text_dim", "network", "learned_from"})
    is_trained: ClassVar[bool] = True
    sampling: ClassVar[Literal["steps", "guidance", "one_step", "fixed"]]
    """What of PriorSampling is read: all, guidance_scale alone, or nothing (fixed: nor is anything trained)."""
    reads_gaussians: ClassVar[bool] = False
    """Whether the fitted Gaussians are an input of its training; see :meth:`uses_gaussians`."""
    version: ClassVar[int] = 5
    """Raised whenever the same settings would now give another prior."""

    embed_dim: int
    kind: str = field(kw_only=True)
    learned_from: LearnedFrom = field(default="pairs", kw_only=True)
    """pairs: images with their captions; images: images alone, every caption left out, so that it samples without one
    only; images_then_pairs: first the one, then the other, so that it does both."""
    text_dim: int | None = field(default=None, kw_only=True, metadata=ABSENT)
    """Width of a text embedding, where images are embedded by another encoder than texts, so that the two cannot be
    compared; null: both are of one space, and of one width."""

    def __post_init__(self) -> None:
        require_positive(self, "embed_dim")
        require(self, "text_dim", self.text_dim is None or self.text_dim >= 1, "1 or more, or null")
        require(self, "learned_from", self.learned_from in get_args(LearnedFrom), f"one of {get_args(LearnedFrom)}")

    @classmethod
    def learns_from_images(cls, section: Any) -> bool:
        """Return whether it can learn without captions with these settings (the section of the kind, or a spec)."""
        return False

    @property
    def compared_in_batches(self) -> str:
        """What of its loss compares the pairs of a batch with one another, for people; "": nothing does."""
        return ""

    @property
    def caption_dim(self) -> int:
        """Width of a text embedding, of whatever space."""
        return self.embed_dim if self.text_dim is None else self.text_dim

    @property
    def is_unconditional(self) -> bool:
        """Whether it samples embeddings without a caption."""
        return self.learned_from != "pairs"

    @classmethod
    def uses_gaussians(cls, section: Any) -> bool:
        """Return whether they are with these settings (the section of the kind, or a spec)."""
        return cls.reads_gaussians

    @property
    def num_sampling_steps(self) -> int:
        """How many passes of the network a sample takes where PriorSampling does not say it."""
        return 0

    @property
    def max_sampling_steps(self) -> float:
        """How many steps PriorSampling may ask for."""
        return math.inf

    @property
    def is_flow(self) -> bool:
        """Whether it is sampled along a flow, for which there are solvers of their own."""
        return False

    @property
    def model_class(self) -> Any:
        """The kind's module; imports torch."""
        return resolve_name(self.model)

    def require_pairs(self, count: int, embed_dim: int) -> None:
        """Refuse too few training pairs, or embeddings of too few dimensions."""


def require_one_space(spec: PriorSpec, name: str, holds: bool, allowed: str) -> None:
    """Refuse a value with which texts are compared with images, where the two are of different spaces."""
    require(spec, name, spec.text_dim is None or holds, f"{allowed} where images are not embedded by the texts' CLIP")


def prior_keys(spec: type[PriorSpec]) -> Mapping[str, Field[Any]]:
    """Return the dataclass fields of a spec that a section gives, by name."""
    return {item.name: item for item in fields(spec) if item.name not in spec.from_data}
