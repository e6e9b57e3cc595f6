"""The shape of a pixel-diffusion decoder, as plain data: it imports no torch."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Parametrization = Literal["flow_sample", "ddpm_sample", "ddpm_velocity"]
PARAMETRIZATIONS: Final[tuple[Parametrization, ...]] = ("flow_sample", "ddpm_sample", "ddpm_velocity")
NORM_GROUPS: Final[int] = 16
HEAD_DIM: Final[int] = 32


@dataclass(frozen=True, kw_only=True)
class PixelDecoderConfig:
    """Every choice that fixes the decoder's weights, process and conditioning."""

    embed_dim: int
    """Width of the CLIP image embedding, all concatenated models together."""
    resolution: int = 64
    unshuffle: int = 8
    """Each `unshuffle` x `unshuffle` block of pixels becomes the channels of one cell of the U-Net's grid."""
    channels: tuple[int, ...] = (128, 160)
    """U-Net width at each level; every level after the first halves the grid."""
    blocks_per_level: int = 1
    attention_levels: int = 0
    """Besides the middle block, this many of the lowest levels attend to the embedding's tokens."""
    num_tokens: int = 8
    token_dim: int = 128
    layout_channels: int = 16
    """Channels of the map that an MLP draws from the embedding and joins to the input; 0 disables it."""
    layout_resolution: int = 8
    layout_hidden: int = 512
    parametrization: Parametrization = "flow_sample"
    """What the network predicts (the picture or the velocity), and along which noise process."""
    empty_probability: float = 0.1
    """Share of embeddings replaced by the learned empty one, for classifier-free guidance."""
    embedding_noise: float = 0.0
    """Deviation of the noise added to standardized embeddings in training, to forgive a prior's errors."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be built, naming the field and what is allowed."""
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("embed_dim", "resolution", "unshuffle", "blocks_per_level", "num_tokens", "token_dim"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        self._require("channels", len(self.channels) >= 1, "one width per level")
        self._require("channels", all(c % HEAD_DIM == 0 and c > 0 for c in self.channels), f"multiples of {HEAD_DIM}")
        num_levels = len(self.channels)
        self._require("attention_levels", 0 <= self.attention_levels <= num_levels, f"0 to {num_levels} levels")
        cell = self.unshuffle * 2 ** (num_levels - 1)
        self._require("resolution", self.resolution % cell == 0, f"a multiple of {cell} (unshuffle and levels)")
        self._require("layout_channels", self.layout_channels >= 0, "0 or more")
        side = self.resolution // self.unshuffle
        fits = self.layout_resolution >= 1 and side % self.layout_resolution == 0
        self._require("layout_resolution", fits or not self.layout_channels, f"a divisor of the U-Net's grid, {side}")
        self._require("layout_hidden", self.layout_hidden >= 1, "1 or more")
        self._require("parametrization", self.parametrization in PARAMETRIZATIONS, f"one of {PARAMETRIZATIONS}")
        self._require("empty_probability", 0.0 <= self.empty_probability < 1.0, "0 up to, not including, 1")
        self._require("embedding_noise", self.embedding_noise >= 0.0, "0 or more")

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values; `PixelDecoderConfig(**fields)` reads them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"PixelDecoderConfig.{name}: found {getattr(self, name)!r}: expected {allowed}")
