"""The shapes of a super-resolution model and of a cascade, as plain data: it imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from models.diffusion.spec import ProcessConfig
from models.fields import plain_fields, require, require_widths


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig:
    """Every choice that fixes a super-resolution model's weights, process and conditioning."""

    kind: Literal["upsampler"] = "upsampler"
    embed_dim: int
    """Width of the CLIP image embedding, all concatenated models together."""
    from_resolution: int = 64
    resolution: int = 256
    unshuffle: int = 4
    """Each `unshuffle` x `unshuffle` block of pixels becomes the channels of one cell of the U-Net's grid."""
    channels: tuple[int, ...] = (128, 256)
    """U-Net width at each level; every level after the first halves the grid."""
    blocks_per_level: int = 2
    process: ProcessConfig = field(default_factory=ProcessConfig)
    max_noise: float = 0.5
    """Largest deviation of the noise put on the low-resolution image in training."""
    empty_probability: float = 0.1
    """Share of embeddings replaced by the learned empty one, for classifier-free guidance."""
    embedding_noise: float = 0.0
    """Deviation of the noise added to standardized embeddings in training, to forgive a prior's errors."""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be built, naming the field and what is allowed."""
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("embed_dim", "from_resolution", "resolution", "unshuffle", "blocks_per_level"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require_widths(self, self.channels)
        require(self, "resolution", self.resolution % self.cell == 0, f"a multiple of {self.cell} (unshuffle, levels)")
        larger = self.resolution > self.from_resolution and self.resolution % self.from_resolution == 0
        require(self, "resolution", larger, f"a multiple of from_resolution, {self.from_resolution}, by 2 or more")
        require(self, "max_noise", 0.0 <= self.max_noise <= 1.0, "0 to 1")
        require(self, "empty_probability", 0.0 <= self.empty_probability < 1.0, "0 up to, not including, 1")
        require(self, "embedding_noise", self.embedding_noise >= 0.0, "0 or more")

    @property
    def factor(self) -> int:
        """How many times larger the image becomes."""
        return self.resolution // self.from_resolution

    @property
    def cell(self) -> int:
        """Pixels per side that an image, or a crop of one, must be a multiple of."""
        return int(self.unshuffle * 2 ** (len(self.channels) - 1))

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values; :meth:`from_dict` reads them back."""
        return plain_fields(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**{**fields, "process": ProcessConfig(**fields["process"])})
