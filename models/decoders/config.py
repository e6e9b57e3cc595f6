"""The shapes of the pixel-diffusion decoder, as plain data: it imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from models.decoders.fields import plain_fields, require

Target = Literal["sample", "noise", "velocity"]
TARGETS: Final[tuple[Target, ...]] = ("sample", "noise", "velocity")
NORM_GROUPS: Final[int] = 16
HEAD_DIM: Final[int] = 32


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """A noise process with what its network predicts; see :mod:`models.decoders.process`."""

    path: Literal["flow", "ddpm"] = "flow"
    """flow: straight from picture to noise; ddpm: variance-preserving."""
    target: Target = "sample"
    """What the network predicts; on the path flow, the picture."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """ddpm: how abar_t falls (Nichol and Dhariwal 2021; Ho et al. 2020)."""
    loss_weight: Literal["min_snr", "uniform"] = "min_snr"
    """ddpm: weight of the target's error by time; min_snr: that of the picture's error is min(SNR, min_snr_gamma)."""
    min_snr_gamma: float = 5.0
    zero_terminal_snr: bool = False
    """ddpm: let the last step be noise alone (Lin et al. 2024)."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning, naming the field and what is allowed."""
        require(self, "path", self.path in ("flow", "ddpm"), "flow or ddpm")
        allowed = TARGETS[:1] if self.path == "flow" else TARGETS
        require(self, "target", self.target in allowed, f"one of {', '.join(allowed)} on the path {self.path}")
        require(self, "schedule", self.schedule in ("cosine", "linear"), "cosine or linear")
        require(self, "loss_weight", self.loss_weight in ("min_snr", "uniform"), "min_snr or uniform")
        require(self, "min_snr_gamma", self.min_snr_gamma > 0.0, "above 0")
        told = self.target != "noise" or not self.zero_terminal_snr
        require(self, "zero_terminal_snr", told, "false where target is noise, which says nothing of a picture there")
        require(self, "zero_terminal_snr", self.path == "ddpm" or not self.zero_terminal_snr, "false on the path flow")


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
    process: ProcessConfig = ProcessConfig()
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


def require_widths(config: object, channels: tuple[int, ...]) -> None:
    """Refuse widths by level that the U-Net's normalisation and attention heads do not divide.

    Raises:
        ValueError: there is none, or one is no multiple.
    """
    require(config, "channels", len(channels) >= 1, "one width per level")
    require(config, "channels", all(c % HEAD_DIM == 0 and c > 0 for c in channels), f"multiples of {HEAD_DIM}")
