"""The shape of an autoencoder, as plain data: it imports no torch."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

AutoencoderKind = Literal["kl", "vq"]
NORM_GROUPS: Final[int] = 16


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Every choice that fixes the autoencoder's weights and its latent space.

    Kind kl gives latents a normal distribution; kind vq takes the nearest of a number of codes at each place.
    """

    kind: AutoencoderKind
    resolution: int = 256
    unshuffle: int = 1
    """Each `unshuffle` x `unshuffle` block of pixels becomes the channels of one place of the first level."""
    channels: tuple[int, ...] = (128, 256, 512, 512)
    """Width at each level; every level after the first halves the grid."""
    blocks_per_level: int = 2
    latent_channels: int = 4
    attention: bool = True
    """Whether the places of the smallest grid attend to one another."""
    num_codes: int = 8192
    """Kind vq: size of the codebook."""
    code_decay: float = 0.99
    """Kind vq: decay of the averages that the codebook is made of."""
    dead_fraction: float = 0.03
    """Kind vq: a code used less than this share of the mean use is put where it will be used."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be built, naming the field and what is allowed."""
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("resolution", "unshuffle", "blocks_per_level", "latent_channels", "num_codes"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        self._require("kind", self.kind in ("kl", "vq"), "kl or vq")
        self._require("channels", len(self.channels) >= 1, "one width per level")
        fits = all(c % NORM_GROUPS == 0 and c > 0 for c in self.channels)
        self._require("channels", fits, f"multiples of {NORM_GROUPS}")
        cell = self.factor
        self._require("resolution", self.resolution % cell == 0, f"a multiple of {cell} (unshuffle and levels)")
        self._require("code_decay", 0.0 <= self.code_decay < 1.0, "0 up to, not including, 1")
        self._require("dead_fraction", 0.0 <= self.dead_fraction < 1.0, "0 up to, not including, 1")

    @property
    def factor(self) -> int:
        """Return how many pixels a latent place is wide."""
        return int(self.unshuffle * 2 ** (len(self.channels) - 1))

    @property
    def latent_resolution(self) -> int:
        """Return the side of the latent grid."""
        return self.resolution // self.factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return channels, rows and columns of one image's latents."""
        return (self.latent_channels, self.latent_resolution, self.latent_resolution)

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values; `AutoencoderConfig(**fields)` reads them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"AutoencoderConfig.{name}: found {getattr(self, name)!r}: expected {allowed}")
