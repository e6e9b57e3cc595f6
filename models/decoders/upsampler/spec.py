"""The spec of a super-resolution model; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from models.decoders.spec import DecoderSpec, EmbeddingDropout, RandomInput
from models.diffusion.spec import ProcessConfig
from models.fields import require, require_positive, require_widths


@dataclass(frozen=True, kw_only=True)
class UpsamplerUNet(EmbeddingDropout):
    """The U-Net and how the small image and the embedding enter it."""

    unshuffle: int = 4
    """Each `unshuffle` x `unshuffle` block of pixels becomes the channels of one cell of the U-Net's grid."""
    channels: tuple[int, ...] = (128, 256)
    """Width at each level; every level after the first halves the grid."""
    blocks_per_level: int = 2
    max_noise: float = 0.5
    """Largest std of the noise on the small image in training, so that faults of the model before it are tolerated."""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "unshuffle", "blocks_per_level")
        require_widths(self, self.channels)
        require(self, "max_noise", 0.0 <= self.max_noise <= 1.0, "0 to 1")

    def of_loss(self) -> dict[str, Any]:
        """Return what the loss depends on; the noise on the small image does, too."""
        return super().of_loss() | {"max_noise": self.max_noise}


@dataclass(frozen=True, kw_only=True)
class UpsamplerSpec(DecoderSpec):
    """A diffusion of large images conditioned on small ones."""

    model: ClassVar[str] = "models.decoders.upsampler.model:Upsampler"
    trained: ClassVar[str] = "models.decoders.upsampler.model:build_training"
    loss_fields: ClassVar[tuple[str, ...]] = ("from_resolution",)

    kind: Literal["upsampler"] = "upsampler"
    from_resolution: int
    resolution: int
    network: UpsamplerUNet = UpsamplerUNet()
    process: ProcessConfig = field(default_factory=ProcessConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "from_resolution", "resolution")
        require(self, "resolution", self.resolution % self.cell == 0, f"a multiple of {self.cell} (unshuffle, levels)")
        larger = self.resolution > self.from_resolution and self.resolution % self.from_resolution == 0
        require(self, "resolution", larger, f"a multiple of from_resolution, {self.from_resolution}, by 2 or more")

    @property
    def factor(self) -> int:
        """How many times larger the image becomes."""
        return self.resolution // self.from_resolution

    @property
    def cell(self) -> int:
        """Pixels per side that an image, or a crop of one, must be a multiple of."""
        return int(self.network.unshuffle * 2 ** (len(self.network.channels) - 1))

    def random_inputs(self, crop: int | None = None) -> Mapping[str, RandomInput]:
        """Return what the loss takes, of images or crops of that side: noise for both images, and the crop's corner."""
        side = crop or self.resolution
        small = side // self.factor
        return {
            "noise": RandomInput("normal", (3, side, side)),
            "small_noise": RandomInput("normal", (3, small, small)),
            "blur": RandomInput("normal", (self.embed_dim,)),
            "augmentation": RandomInput("uniform"),
            "corner": RandomInput("uniform", (2,)),
            "time": RandomInput("times"),
            "dropout": RandomInput("dropout"),
        }
