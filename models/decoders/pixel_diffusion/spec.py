"""The spec of the pixel-diffusion decoder; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from models.decoders.buckets import Size
from models.decoders.spec import BucketedSpec, Conditioning
from models.diffusion.spec import ProcessConfig
from models.fields import require, require_positive, require_widths


@dataclass(frozen=True, kw_only=True)
class PixelUNet(Conditioning):
    """The U-Net and how the embedding enters it."""

    unshuffle: int = 8
    """Each `unshuffle` x `unshuffle` block of pixels becomes the channels of one cell of the U-Net's grid."""
    channels: tuple[int, ...] = (128, 160)
    """Width at each level; every level after the first halves the grid."""
    blocks_per_level: int = 1
    attention_levels: int = 0
    """Besides the middle block, this many of the lowest levels attend to the embedding's tokens."""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "unshuffle", "blocks_per_level")
        require_widths(self, self.channels)
        num_levels = len(self.channels)
        require(self, "attention_levels", 0 <= self.attention_levels <= num_levels, f"0 to {num_levels} levels")


@dataclass(frozen=True, kw_only=True)
class PixelDiffusionSpec(BucketedSpec):
    """A diffusion of pixels."""

    model: ClassVar[str] = "models.decoders.pixel_diffusion.model:PixelDecoder"
    trained: ClassVar[str] = "models.decoders.pixel_diffusion.model:build_training"
    version: ClassVar[int] = 3
    training: ClassVar[Mapping[str, Any]] = {
        "num_steps": 1100,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "betas": (0.9, 0.99),
        "weight_decay": 0.01,
        "warmup_steps": 50,
        "schedule": "cosine",
        "ema_decay": 0.99,
        "checkpoint_interval": 200,
    }

    kind: Literal["pixel_diffusion"] = "pixel_diffusion"
    resolution: int
    text_dim: int = 0
    network: PixelUNet = PixelUNet()
    process: ProcessConfig = field(default_factory=ProcessConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.resolution >= 1 and self.resolution % self.cell == 0
        require(self, "resolution", fits, f"a multiple of {self.cell} (unshuffle and levels)")
        self.network.require_layout(self.resolution // self.network.unshuffle, "the U-Net's grid")
        self.require_buckets()

    @property
    def cell(self) -> int:
        """Pixels that sides must be multiples of."""
        return int(self.network.unshuffle * 2 ** (len(self.network.channels) - 1))

    def grid_shape(self, size: Size) -> tuple[int, int, int]:
        """Return channels, rows and columns of images of a width and height."""
        return 3, size[1], size[0]
