"""The shape of the pixel-diffusion decoder, as plain data: it imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from models.diffusion.spec import ProcessConfig
from models.fields import plain_fields, require, require_widths


@dataclass(frozen=True, kw_only=True)
class PixelDecoderConfig:
    """Every choice that fixes the decoder's weights, process and conditioning."""

    kind: Literal["pixel_diffusion"] = "pixel_diffusion"
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
    process: ProcessConfig = field(default_factory=ProcessConfig)
    text_dim: int = 0
    """Width of the CLIP text embedding that is a condition, too; 0: no texts are read."""
    empty_probability: float = 0.1
    """Share of embeddings replaced by the learned empty one, for classifier-free guidance."""
    embedding_noise: float = 0.0
    """Deviation of the noise added to standardized embeddings in training, to forgive a prior's errors."""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be built, naming the field and what is allowed."""
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("embed_dim", "resolution", "unshuffle", "blocks_per_level", "num_tokens", "token_dim"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require_widths(self, self.channels)
        num_levels = len(self.channels)
        require(self, "attention_levels", 0 <= self.attention_levels <= num_levels, f"0 to {num_levels} levels")
        cell = self.unshuffle * 2 ** (num_levels - 1)
        require(self, "resolution", self.resolution % cell == 0, f"a multiple of {cell} (unshuffle and levels)")
        require(self, "layout_channels", self.layout_channels >= 0, "0 or more")
        side = self.resolution // self.unshuffle
        fits = self.layout_resolution >= 1 and side % self.layout_resolution == 0
        require(self, "layout_resolution", fits or not self.layout_channels, f"a divisor of the U-Net's grid, {side}")
        require(self, "layout_hidden", self.layout_hidden >= 1, "1 or more")
        require(self, "text_dim", self.text_dim >= 0, "0 or more")
        require(self, "empty_probability", 0.0 <= self.empty_probability < 1.0, "0 up to, not including, 1")
        require(self, "embedding_noise", self.embedding_noise >= 0.0, "0 or more")

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values; :meth:`from_dict` reads them back."""
        return plain_fields(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**{**fields, "process": ProcessConfig(**fields["process"])})
