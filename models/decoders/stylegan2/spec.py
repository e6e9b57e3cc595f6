"""The specs of StyleGAN2's generator and discriminator, and the weights of its losses; no torch."""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from models.decoders.spec import DecoderSpec
from models.fields import Settings, Spec, require, require_positive

StartGrid = Literal["constant", "embedding"]
STARTS: Final[tuple[StartGrid, ...]] = ("constant", "embedding")
Augmentation = Literal["none", "fixed", "adaptive"]
AUGMENTATIONS: Final[tuple[Augmentation, ...]] = ("none", "fixed", "adaptive")


@dataclass(frozen=True, kw_only=True)
class PatchedLevels(Settings):
    """The grids of either network."""

    channels: tuple[int, ...] = (128, 96, 64)
    """Width by level, from the smallest grid to the largest; each level doubles the grid."""
    patch_size: int = 4
    """Pixels per side of a cell of the largest grid (StyleGAN2: 1), so that a small machine needs few cells."""

    def __post_init__(self) -> None:
        require(self, "channels", bool(self.channels) and min(self.channels) >= 1, "one width per level, 1 or more")
        require_positive(self, "patch_size")

    @property
    def factor(self) -> int:
        """Pixels per side of a cell of the smallest grid."""
        return int(self.patch_size * 2 ** (len(self.channels) - 1))


@dataclass(frozen=True, kw_only=True)
class GeneratorNetwork(PatchedLevels):
    """The generator."""

    latent_dim: int = 32
    """Width of the noise that makes images of one embedding differ."""
    style_dim: int = 128
    mapping_layers: int = 2
    mapping_rate: float = 0.1
    """Learning rate of the mapping network relative to the rest (StyleGAN2: 0.01)."""
    condition_dim: int = 128
    """Width of what every layer's style sees of the embedding directly, beside w (Lafite's style space)."""
    start: StartGrid = "embedding"
    """What fills the smallest grid: a learned constant (StyleGAN2), or a layout map made of the embedding."""
    layer_noise: bool = False
    """Whether every layer adds noise of a learned strength (StyleGAN's stochastic detail)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "latent_dim", "style_dim", "mapping_layers")
        require(self, "mapping_rate", self.mapping_rate > 0, "more than 0")
        require(self, "condition_dim", self.condition_dim >= 0, "0 or more")
        require(self, "start", self.start in STARTS, f"one of {STARTS}")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorNetwork(PatchedLevels):
    """The discriminator."""

    feature_dim: int = 256
    """Width of the features that the score and the projection read."""
    std_group: int = 4
    """Images whose std among one another is shown as a channel; 0: none (minibatch standard deviation)."""
    rate: float = 1.0
    """Learning rate relative to the generator's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "feature_dim")
        require(self, "std_group", self.std_group >= 0, "0 or more")
        require(self, "rate", self.rate > 0, "more than 0")


@dataclass(frozen=True, kw_only=True)
class StyleGan2Spec(DecoderSpec):
    """The generator, which is the decoder."""

    model: ClassVar[str] = "models.decoders.stylegan2.model:StyleGan2Generator"

    kind: Literal["stylegan2"] = "stylegan2"
    resolution: int
    network: GeneratorNetwork = GeneratorNetwork()

    def __post_init__(self) -> None:
        super().__post_init__()
        factor = self.network.factor
        fits = self.resolution % factor == 0 and self.resolution // factor >= 4
        require(self, "resolution", fits, f"a multiple of {factor} (patch_size and levels), {4 * factor} or more")

    @property
    def grids(self) -> tuple[int, ...]:
        """Cells per side of each level."""
        largest = self.resolution // self.network.patch_size
        return tuple(largest // 2**level for level in reversed(range(len(self.network.channels))))


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSpec(Spec):
    """The network that separates generated images from true ones; it is needed in training only."""

    model: ClassVar[str] = "models.decoders.stylegan2.discriminator:Discriminator"

    embed_dim: int
    resolution: int
    network: DiscriminatorNetwork = DiscriminatorNetwork()

    def __post_init__(self) -> None:
        require_positive(self, "embed_dim", "resolution")
        factor = self.network.factor
        require(self, "resolution", self.resolution % factor == 0, f"a multiple of {factor} (patch_size and levels)")


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings(Settings):
    """Weights of the losses, and how often the costly ones are taken."""

    r1_weight: float = 1.0
    """gamma of R1, the penalty on the discriminator's gradient at true images; 0: none."""
    r1_interval: int = 16
    """R1 is taken every so many steps, and weighs as many times more."""
    path_weight: float = 0.0
    """Weight of path-length regularization (StyleGAN2: 2); 0: none."""
    path_interval: int = 4
    clip_weight: float = 1.0
    """Weight of InfoNCE between generated images' CLIP embeddings and the embeddings asked for; 0: no CLIP."""
    feature_weight: float = 1.0
    """Weight of InfoNCE between the discriminator's features and the embeddings, for both networks."""
    match_weight: float = 0.0
    """Weight of the distance between what the discriminator saw in the generated image and in the true one of the same
    embedding (pix2pixHD); 0: none, as in Lafite. It speeds up small runs, and makes images of an embedding alike."""
    clip_temperature: float = 0.1
    feature_temperature: float = 0.1
    embedding_noise: float = 0.0
    """xi of the pseudo text that stands for the embedding as condition (Lafite); 0: the embedding itself."""
    augmentation: Augmentation = "none"
    augmentation_probability: float = 0.0
    """Of each change of an image that the discriminator sees; where adaptive begins."""
    augmentation_target: float = 0.6
    """Adaptive: the mean sign of the discriminator on true images that the probability steers to."""
    augmentation_images: int = 500_000
    """Adaptive: images within which the probability can rise from 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("r1_weight", "path_weight", "clip_weight", "feature_weight", "match_weight", "embedding_noise"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require_positive(self, "r1_interval", "path_interval", "augmentation_images")
        for name in ("clip_temperature", "feature_temperature"):
            require(self, name, getattr(self, name) > 0, "more than 0")
        require(self, "augmentation", self.augmentation in AUGMENTATIONS, f"one of {AUGMENTATIONS}")
        require(self, "augmentation_probability", 0 <= self.augmentation_probability <= 1, "0 to 1")
        require(self, "augmentation_target", -1 <= self.augmentation_target <= 1, "-1 to 1")
