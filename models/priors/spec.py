"""What a prior is made of, as plain data: torch-free, so that configuration can be read without it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

ScheduleKind = Literal["linear", "cosine"]
Sampler = Literal["ancestral", "ddim", "dpm_solver"]
Variance = Literal["posterior", "large"]
Target = Literal["sample", "noise", "velocity"]
LossWeight = Literal["p2", "min_snr", "uniform"]
Selection = Literal["means", "samples"]
TEXT_ENCODERS = ("t5", "clip")


@dataclass(frozen=True)
class PriorSampling:
    """How embeddings are drawn from a trained prior; a prior that has no use for a field ignores it.

    ``variance`` is read by sampler ancestral, ``eta`` (0 deterministic, 1 as much noise as ancestral) by ddim.
    ``guidance_scale`` 1 means no guidance; ``guidance_rescale`` in [0, 1] takes back that much of the inflation that
    guidance causes (arXiv 2305.08891, section 3.4).
    """

    num_steps: int = 64
    sampler: Sampler = "ancestral"
    variance: Variance = "posterior"
    eta: float = 0.0
    guidance_scale: float = 1.0
    guidance_rescale: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no sampler understands.

        Raises:
            ValueError: sampler or variance is unknown, or eta or guidance_rescale is not in [0, 1].
        """
        for name, found, allowed in (
            ("sampler", self.sampler, get_args(Sampler)),
            ("variance", self.variance, get_args(Variance)),
        ):
            if found not in allowed:
                raise ValueError(f"prior sampling: {name} is {found!r}: allowed are {', '.join(allowed)}")
        for name, fraction in (("eta", self.eta), ("guidance_rescale", self.guidance_rescale)):
            if not 0 <= fraction <= 1:
                raise ValueError(f"prior sampling: {name} is {fraction}: allowed are numbers from 0 to 1")


@dataclass(frozen=True)
class ScheduleSettings:
    """The noise schedule of the forward process; ``beta_first`` and ``beta_last`` are read by kind linear only."""

    kind: ScheduleKind = "linear"
    num_timesteps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02


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
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
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
        parts["schedule"] = ScheduleSettings(**parts["schedule"])
    if "network" in parts:
        network = dict(parts["network"])
        states = network.pop("text_states", {})
        network["text_states"] = {name: TextStateSettings(**state) for name, state in states.items()}
        parts["network"] = TransformerSettings(**network)
    return _KINDS[kind](**parts)
