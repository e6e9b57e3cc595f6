"""The shape of a latent-diffusion decoder, as plain data: it imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from models.autoencoders.spec import AutoencoderConfig
from models.diffusion.spec import ProcessConfig
from models.fields import plain_fields, require, require_widths

NETWORKS: Final = ("unet", "dit")


@dataclass(frozen=True, kw_only=True)
class UNetShape:
    """diffusers' U-Net on the latent grid."""

    kind: Literal["unet"] = "unet"
    channels: tuple[int, ...] = (128, 160)
    """Width at each level; every level after the first halves the grid."""
    blocks_per_level: int = 1
    attention_levels: int = 0
    """Besides the middle block, this many of the lowest levels attend to the embedding's tokens."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be built, naming the field and what is allowed."""
        object.__setattr__(self, "channels", tuple(self.channels))
        require_widths(self, self.channels)
        require(self, "blocks_per_level", self.blocks_per_level >= 1, "1 or more")
        num_levels = len(self.channels)
        require(self, "attention_levels", 0 <= self.attention_levels <= num_levels, f"0 to {num_levels} levels")

    @property
    def cell(self) -> int:
        """Return the side that the latent grid must be a multiple of."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """A diffusion transformer with adaptive norms that cross-attends to the embedding's tokens."""

    kind: Literal["dit"] = "dit"
    num_layers: int = 6
    num_heads: int = 4
    head_dim: int = 32
    patch_size: int = 1
    """Places per side of a token."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be built, naming the field and what is allowed."""
        for name in ("num_layers", "num_heads", "head_dim", "patch_size"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        # the position's code takes a quarter of the width for each of sine and cosine of row and column
        width = self.num_heads * self.head_dim
        require(self, "head_dim", width % 4 == 0, "one that makes num_heads * head_dim a multiple of 4")

    @property
    def cell(self) -> int:
        """Return the side that the latent grid must be a multiple of."""
        return self.patch_size


@dataclass(frozen=True, kw_only=True)
class LatentDecoderConfig:
    """Every choice that fixes the decoder's weights, its process, its conditioning, and its first stage."""

    kind: Literal["latent_diffusion"] = "latent_diffusion"
    embed_dim: int
    """Width of the CLIP image embedding, all concatenated models together."""
    autoencoder: AutoencoderConfig
    scale_factor: float = 1.0
    """Latents are diffused as scale_factor * (z - shift), of about unit variance; measured by encode_latents."""
    shift: float = 0.0
    network: UNetShape | TransformerShape = field(default_factory=UNetShape)
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
        for name in ("embed_dim", "num_tokens", "token_dim", "layout_hidden"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        side, cell = self.autoencoder.latent_resolution, self.network.cell
        require(self, "network", side % cell == 0, f"one whose grid of {cell} divides the latents' side, {side}")
        require(self, "scale_factor", self.scale_factor > 0.0, "above 0")
        require(self, "layout_channels", self.layout_channels >= 0, "0 or more")
        fits = self.layout_resolution >= 1 and side % self.layout_resolution == 0
        require(self, "layout_resolution", fits or not self.layout_channels, f"a divisor of the latents' side, {side}")
        require(self, "text_dim", self.text_dim >= 0, "0 or more")
        require(self, "empty_probability", 0.0 <= self.empty_probability < 1.0, "0 up to, not including, 1")
        require(self, "embedding_noise", self.embedding_noise >= 0.0, "0 or more")

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.autoencoder.resolution

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values; :meth:`from_dict` reads them back."""
        return plain_fields(self) | {
            "autoencoder": self.autoencoder.to_dict(),
            "network": plain_fields(self.network),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        shape = UNetShape if fields["network"]["kind"] == "unet" else TransformerShape
        return cls(
            **{
                **fields,
                "autoencoder": AutoencoderConfig(**fields["autoencoder"]),
                "network": shape(**fields["network"]),
                "process": ProcessConfig(**fields["process"]),
            }
        )
