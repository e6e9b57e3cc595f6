"""The spec of the latent-diffusion decoder; no torch."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from models.autoencoders.spec import AutoencoderSpec
from models.decoders.buckets import Size
from models.decoders.spec import BucketedSpec, Conditioning
from models.diffusion.spec import ProcessConfig
from models.fields import Settings, require, require_positive, require_widths


@dataclass(frozen=True, kw_only=True)
class LatentUNet(Settings):
    """diffusers' U-Net on the latent grid."""

    kind: Literal["unet"] = "unet"
    channels: tuple[int, ...] = (128, 160)
    """Width at each level; every level after the first halves the grid."""
    blocks_per_level: int = 1
    attention_levels: int = 0
    """Besides the middle block, this many of the lowest levels attend to the embedding's tokens."""

    def __post_init__(self) -> None:
        require_widths(self, self.channels)
        require_positive(self, "blocks_per_level")
        num_levels = len(self.channels)
        require(self, "attention_levels", 0 <= self.attention_levels <= num_levels, f"0 to {num_levels} levels")

    @property
    def cell(self) -> int:
        """The side that the latent grid must be a multiple of."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True, kw_only=True)
class LatentTransformer(Settings):
    """A diffusion transformer with adaptive norms that cross-attends to the embedding's tokens."""

    kind: Literal["dit"] = "dit"
    num_layers: int = 6
    num_heads: int = 4
    head_dim: int = 32
    patch_size: int = 1
    """Latent positions per side of a token."""

    def __post_init__(self) -> None:
        require_positive(self, "num_layers", "num_heads", "head_dim", "patch_size")
        # the position's code takes a quarter of the width for each of sine and cosine of row and column
        width = self.num_heads * self.head_dim
        require(self, "head_dim", width % 4 == 0, "one that makes num_heads * head_dim a multiple of 4")

    @property
    def cell(self) -> int:
        """The side that the latent grid must be a multiple of."""
        return self.patch_size


@dataclass(frozen=True, kw_only=True)
class LatentMLP(Settings):
    """Residual layers with adaptive norms that take all latents of an image as one vector.

    Its weights are not shared by positions: a step costs a small part of a U-Net's, and what it learns of one place it
    does not know of another. That suits some thousand images of one kind and a small latent grid.
    """

    kind: Literal["mlp"] = "mlp"
    width: int = 512
    num_layers: int = 4

    def __post_init__(self) -> None:
        require_positive(self, "width", "num_layers")

    @property
    def cell(self) -> int:
        """The side that the latent grid must be a multiple of."""
        return 1


@dataclass(frozen=True, kw_only=True)
class LatentDiffusionSpec(BucketedSpec):
    """A diffusion of an autoencoder's latents."""

    model: ClassVar[str] = "models.decoders.latent_diffusion.model:LatentDecoder"
    trained: ClassVar[str] = "models.decoders.latent_diffusion.model:build_training"
    has_first_stage: ClassVar[bool] = True
    loss_fields: ClassVar[tuple[str, ...]] = ("scale_factor", "shift")

    kind: Literal["latent_diffusion"] = "latent_diffusion"
    autoencoder: AutoencoderSpec
    scale_factor: float = 1.0
    """Latents are diffused as scale_factor * (z - shift), of about unit variance; measured by encode_latents."""
    shift: float = 0.0
    text_dim: int = 0
    network: LatentUNet | LatentTransformer | LatentMLP = LatentUNet()
    conditioning: Conditioning = field(default_factory=Conditioning)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        side, cell = self.autoencoder.latent_resolution, self.network.cell
        require(self, "network", side % cell == 0, f"one whose grid of {cell} divides the latents' side, {side}")
        require(self, "scale_factor", self.scale_factor > 0.0, "above 0")
        self.conditioning.require_layout(side, "the latents' side")
        self.require_buckets()
        takes = self.buckets is None or not isinstance(self.network, LatentMLP)
        require(self, "buckets", takes, "none with network kind mlp, whose input has one size")

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.autoencoder.resolution

    @property
    def cell(self) -> int:
        """Pixels that sides must be multiples of."""
        return self.autoencoder.network.factor * self.network.cell

    def grid_shape(self, size: Size) -> tuple[int, int, int]:
        """Return channels, rows and columns of the latents of images of a width and height."""
        network = self.autoencoder.network
        return network.latent_channels, size[1] // network.factor, size[0] // network.factor
