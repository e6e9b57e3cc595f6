"""What a prior is made of, as plain data: torch-free, so that configuration can be read without it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, get_args

from models.diffusion.spec import LossWeight, ScheduleSpec, SolverSpec, Target
from models.fields import require

PriorSampler = Literal["ancestral", "ddim", "dpm_solver"]
Selection = Literal["means", "samples"]
TEXT_ENCODERS = ("t5", "clip")


@dataclass(frozen=True, kw_only=True)
class PriorSolver(SolverSpec):
    """How embeddings are sampled from a trained prior, but for the number of steps.

    A prior reads those settings that it has a use for: ``sampler`` ancestral is method eq. 3, ddim is random as far as
    ``eta`` says (0 on the path flow: Euler's method), dpm_solver is DPM-Solver++. ``guidance_rescale`` takes back that
    much of the inflation that guidance causes (arXiv 2305.08891, section 3.4).
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    sampler: PriorSampler = "ancestral"
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1: none."""
    guidance_rescale: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no sampler understands.

        Raises:
            ValueError: a value is not allowed, or is set for another sampler than the chosen one.
        """
        require(self, "sampler", self.sampler in get_args(PriorSampler), f"one of {', '.join(get_args(PriorSampler))}")
        super().__post_init__()
        require(self, "guidance_scale", self.guidance_scale >= 0, "0 or more")
        require(self, "guidance_rescale", 0 <= self.guidance_rescale <= 1, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class PriorSampling(PriorSolver):
    """How embeddings are sampled from a trained prior."""

    num_steps: int = 64
    """Steps from noise to embedding; the paper: 64."""

    def __post_init__(self) -> None:
        """Refuse what no sampler understands."""
        super().__post_init__()
        require(self, "num_steps", self.num_steps >= 1, "1 or more")


@dataclass(frozen=True)
class TextStateSettings:
    """Token states of a text encoder that the network reads: their width, and how many of them at most."""

    width: int
    max_length: int = 80


@dataclass(frozen=True)
class TransformerSettings:
    """Size of the network.

    ``text_states`` names the text encoders whose token states come before all other tokens, in the order of
    TEXT_ENCODERS, in whatever order they are given (files of JSON have their keys sorted); without
    any, the caption enters by its CLIP embedding alone.
    """

    width: int = 128
    num_layers: int = 3
    num_heads: int = 4
    feed_forward_factor: float = 4.0
    qk_norm: bool = False
    gradient_checkpointing: bool = False
    text_states: dict[str, TextStateSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Bring the text encoders into their order."""
        names = sorted(self.text_states, key=lambda name: (*TEXT_ENCODERS, name).index(name))
        object.__setattr__(self, "text_states", {name: self.text_states[name] for name in names})


@dataclass(frozen=True)
class DiffusionPriorSettings:
    """Everything that fixes a diffusion prior except its numbers (weights, Gaussians, statistics).

    ``min_snr_gamma`` is read by loss weight min_snr; ``separation_weight`` (xi of method eq. 6) where the Gaussians
    are learnable. What target and loss weight mean together is a table in models/priors/targets.py.
    """

    kind: Literal["shifted", "gaussian"]
    embed_dim: int
    num_gaussians: int = 1
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    network: TransformerSettings = field(default_factory=TransformerSettings)
    target: Target = "sample"
    loss_weight: LossWeight = "p2"
    min_snr_gamma: float = 5.0
    selection: Selection = "means"
    learnable: bool = False
    separation_weight: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class AutoregressivePriorSettings:
    """The autoregressive prior of DALL-E 2: principal components of the embedding, each one of so many buckets."""

    embed_dim: int
    num_components: int
    network: TransformerSettings = field(default_factory=TransformerSettings)
    num_buckets: int = 1024
    kind: Literal["autoregressive"] = "autoregressive"

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class IdentityPriorSettings:
    """The prior that answers with the text embedding itself."""

    embed_dim: int
    kind: Literal["identity"] = "identity"

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-ready data."""
        return asdict(self)


PriorSettings = DiffusionPriorSettings | AutoregressivePriorSettings | IdentityPriorSettings

_KINDS: dict[str, type[PriorSettings]] = {
    "shifted": DiffusionPriorSettings,
    "gaussian": DiffusionPriorSettings,
    "autoregressive": AutoregressivePriorSettings,
    "identity": IdentityPriorSettings,
}


def settings_from_json(data: Mapping[str, Any]) -> PriorSettings:
    """Read what ``to_json`` of the settings gave.

    Raises:
        ValueError: the kind of prior is unknown.
        TypeError: a setting is unknown or missing.
    """
    kind = data.get("kind")
    if kind not in _KINDS:
        raise ValueError(
            f"prior settings: kind is {kind!r}: allowed are {', '.join(_KINDS)}: train the prior with this version"
        )
    parts = dict(data)
    if "schedule" in parts:
        parts["schedule"] = ScheduleSpec(**parts["schedule"])
    if "network" in parts:
        network = dict(parts["network"])
        states = network.pop("text_states", {})
        network["text_states"] = {name: TextStateSettings(**state) for name, state in states.items()}
        parts["network"] = TransformerSettings(**network)
    return _KINDS[kind](**parts)
