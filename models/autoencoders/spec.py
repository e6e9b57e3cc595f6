"""The specs of autoencoders, one for each kind; no torch."""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from models.fields import Settings, Spec, require, require_positive

NORM_GROUPS: Final[int] = 16


@dataclass(frozen=True, kw_only=True)
class AutoencoderNetwork(Settings):
    """Encoder and decoder."""

    unshuffle: int = 1
    """Each `unshuffle` x `unshuffle` block of pixels becomes the channels of one position of the first level."""
    channels: tuple[int, ...] = (128, 256, 512, 512)
    """Width at each level; every level after the first halves the grid."""
    blocks_per_level: int = 2
    latent_channels: int = 4
    attention: bool = True
    """Whether the positions of the smallest grid attend to one another."""

    def __post_init__(self) -> None:
        require_positive(self, "unshuffle", "blocks_per_level", "latent_channels")
        require(self, "channels", len(self.channels) >= 1, "one width per level")
        fits = all(c % NORM_GROUPS == 0 and c > 0 for c in self.channels)
        require(self, "channels", fits, f"multiples of {NORM_GROUPS}")

    @property
    def factor(self) -> int:
        """Pixels per side of a latent position."""
        return int(self.unshuffle * 2 ** (len(self.channels) - 1))


@dataclass(frozen=True, kw_only=True)
class CodebookSettings(Settings):
    """The codebook of kind vq."""

    num_codes: int = 8192
    code_decay: float = 0.99
    """Decay of the averages that the codebook is made of."""
    dead_fraction: float = 0.03
    """A code used less than this fraction of the mean use is moved to where it will be used."""

    def __post_init__(self) -> None:
        require_positive(self, "num_codes")
        require(self, "code_decay", 0.0 <= self.code_decay < 1.0, "0 up to, not including, 1")
        require(self, "dead_fraction", 0.0 <= self.dead_fraction < 1.0, "0 up to, not including, 1")


@dataclass(frozen=True, kw_only=True)
class AdversarySpec(Spec):
    """The discriminator of patches and how much it counts; it is needed in training only."""

    model: ClassVar[str] = "models.autoencoders.losses:PatchDiscriminator"

    weight: float = 0.1
    """Weight of the generator's term, beside the error's 1."""
    start_step: int = 0
    """The step from which it takes part."""
    width: int = 64
    num_layers: int = 3

    def __post_init__(self) -> None:
        for name in ("weight", "start_step"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "width", self.width >= 1 and self.width % 8 == 0, "a multiple of 8")
        require_positive(self, "num_layers")


@dataclass(frozen=True, kw_only=True)
class AutoencoderBase(Spec):
    """What fixes the weights and the latent space of either kind."""

    resolution: int
    network: AutoencoderNetwork = AutoencoderNetwork()

    def __post_init__(self) -> None:
        factor = self.network.factor
        fits = self.resolution >= 1 and self.resolution % factor == 0
        require(self, "resolution", fits, f"a multiple of {factor} (unshuffle and levels)")

    @property
    def latent_resolution(self) -> int:
        """Side of the latent grid."""
        return self.resolution // self.network.factor

    @property
    def num_codes(self) -> int | None:
        """Size of the codebook, if there is one."""
        return None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image's latents."""
        return (self.network.latent_channels, self.latent_resolution, self.latent_resolution)


@dataclass(frozen=True, kw_only=True)
class KLAutoencoderSpec(AutoencoderBase):
    """An autoencoder whose latents have a normal distribution."""

    model: ClassVar[str] = "models.autoencoders.model:KLAutoencoder"

    kind: Literal["kl"] = "kl"


@dataclass(frozen=True, kw_only=True)
class VQAutoencoderSpec(AutoencoderBase):
    """An autoencoder whose latents are the nearest of a number of codes."""

    model: ClassVar[str] = "models.autoencoders.model:VQAutoencoder"

    kind: Literal["vq"] = "vq"
    codebook: CodebookSettings = CodebookSettings()

    @property
    def num_codes(self) -> int:
        """Size of the codebook."""
        return self.codebook.num_codes


AutoencoderSpec = KLAutoencoderSpec | VQAutoencoderSpec
