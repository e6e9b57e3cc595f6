"""What a prior is made of, as plain data: torch-free, so that configuration can be read without it."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

PriorKind = Literal["shifted", "gaussian"]
ScheduleKind = Literal["linear", "cosine"]
Sampler = Literal["ancestral", "ddim"]


@dataclass(frozen=True)
class ScheduleSettings:
    """The noise schedule of the forward process; ``beta_first`` and ``beta_last`` are read by kind linear only."""

    kind: ScheduleKind = "linear"
    num_timesteps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02


@dataclass(frozen=True)
class TransformerSettings:
    """Size of the network; with ``text_state_dim`` none, the caption enters by its CLIP embedding alone."""

    width: int = 128
    num_layers: int = 3
    num_heads: int = 4
    feed_forward_factor: float = 4.0
    text_state_dim: int | None = None
    max_text_states: int = 80


@dataclass(frozen=True)
class PriorSettings:
    """Everything that fixes a diffusion prior except its numbers (weights, Gaussians, statistics)."""

    kind: PriorKind
    embed_dim: int
    num_gaussians: int = 1
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    network: TransformerSettings = field(default_factory=TransformerSettings)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "PriorSettings":
        """Read what :meth:`to_json` gave.

        Raises:
            TypeError: a setting is unknown or missing.
        """
        parts = {"schedule": ScheduleSettings(**data["schedule"]), "network": TransformerSettings(**data["network"])}
        return cls(**{**data, **parts})
