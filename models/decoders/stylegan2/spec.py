"""The shapes of StyleGAN2's generator and discriminator, and the weights of its losses, as plain data: no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from models.fields import plain_fields, require

StartGrid = Literal["constant", "embedding"]
STARTS: Final[tuple[StartGrid, ...]] = ("constant", "embedding")
Augmentation = Literal["none", "fixed", "adaptive"]
AUGMENTATIONS: Final[tuple[Augmentation, ...]] = ("none", "fixed", "adaptive")


@dataclass(frozen=True, kw_only=True)
class StyleGan2Config:
    """Every choice that fixes the generator's weights; it is saved beside them."""

    kind: Literal["stylegan2"] = "stylegan2"
    embed_dim: int
    """Width of the CLIP image embedding, all concatenated models together."""
    resolution: int = 256
    channels: tuple[int, ...] = (512, 512, 512, 512, 256, 128, 64)
    """Width by level, from the smallest grid to the largest; each level doubles the grid."""
    patch_size: int = 1
    """Each cell of the largest grid draws this many pixels per side, so that a small machine gets by with few cells."""
    latent_dim: int = 512
    style_dim: int = 512
    mapping_layers: int = 8
    mapping_rate: float = 0.01
    """Learning rate of the mapping network relative to the rest (StyleGAN2: 0.01)."""
    condition_dim: int = 512
    """Width of what every layer's style sees of the embedding directly, beside w (Lafite's style space)."""
    start: StartGrid = "constant"
    """What fills the smallest grid: a learned constant (StyleGAN2), or a map drawn from the embedding, its layout."""
    layer_noise: bool = True
    """Whether every layer adds noise of a learned strength (StyleGAN's stochastic detail)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be built, naming the field and what is allowed."""
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("embed_dim", "resolution", "patch_size", "latent_dim", "style_dim", "mapping_layers"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "channels", bool(self.channels) and min(self.channels) >= 1, "one width per level, 1 or more")
        require(self, "mapping_rate", self.mapping_rate > 0, "more than 0")
        require(self, "condition_dim", self.condition_dim >= 0, "0 or more")
        require(self, "start", self.start in STARTS, f"one of {STARTS}")
        factor = self.patch_size * 2 ** (len(self.channels) - 1)
        fits = self.resolution % factor == 0 and self.resolution // factor >= 4
        allowed = f"a multiple of {factor} (patch_size and levels), {4 * factor} or more"
        require(self, "resolution", fits, allowed)

    @property
    def grids(self) -> tuple[int, ...]:
        """Cells per side of each level."""
        largest = self.resolution // self.patch_size
        return tuple(largest // 2**level for level in reversed(range(len(self.channels))))

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values; :meth:`from_dict` reads them back."""
        return plain_fields(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The network that tells drawn images from true ones; it is needed in training only."""

    embed_dim: int
    resolution: int = 256
    channels: tuple[int, ...] = (512, 512, 512, 512, 256, 128, 64)
    """Width by level, from the smallest grid to the largest, as the generator's."""
    patch_size: int = 1
    feature_dim: int = 512
    """Width of the features that the score and the projection read."""
    std_group: int = 4
    """Images whose deviation from one another is shown as a channel; 0: none (minibatch standard deviation)."""
    rate: float = 1.0
    """Learning rate relative to the generator's."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be built, naming the field and what is allowed."""
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("embed_dim", "resolution", "patch_size", "feature_dim"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "channels", bool(self.channels) and min(self.channels) >= 1, "one width per level, 1 or more")
        require(self, "deviation_group", self.std_group >= 0, "0 or more")
        require(self, "rate", self.rate > 0, "more than 0")
        factor = self.patch_size * 2 ** (len(self.channels) - 1)
        require(self, "resolution", self.resolution % factor == 0, f"a multiple of {factor} (patch_size and levels)")


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings:
    """Weights of the losses, and how often the costly ones are taken."""

    r1_weight: float = 10.0
    """gamma of R1, the penalty on the discriminator's gradient at true images; 0: none."""
    r1_interval: int = 16
    """R1 is taken every so many steps, and weighs as many times more."""
    path_weight: float = 0.0
    """Weight of path-length regularization (StyleGAN2: 2); 0: none."""
    path_interval: int = 4
    clip_weight: float = 10.0
    """Weight of InfoNCE between drawn images' CLIP embeddings and the embeddings asked for."""
    feature_weight: float = 5.0
    """Weight of InfoNCE between the discriminator's features and the embeddings, for both networks."""
    match_weight: float = 0.0
    """Weight of the distance between what the discriminator saw in the drawn image and in the true one of the same
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
        """Refuse what has no meaning, naming the field and what is allowed."""
        for name in ("r1_weight", "path_weight", "clip_weight", "feature_weight", "match_weight", "embedding_noise"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("r1_interval", "path_interval", "augmentation_images"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        for name in ("clip_temperature", "feature_temperature"):
            require(self, name, getattr(self, name) > 0, "more than 0")
        require(self, "augmentation", self.augmentation in AUGMENTATIONS, f"one of {AUGMENTATIONS}")
        require(self, "augmentation_probability", 0 <= self.augmentation_probability <= 1, "0 to 1")
        require(self, "augmentation_target", -1 <= self.augmentation_target <= 1, "-1 to 1")
