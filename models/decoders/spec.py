"""What the specs of all decoders share: what a spec can do, and how an embedding enters a network; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, ClassVar, Final, Literal, NamedTuple, Protocol

from models.decoders.buckets import DecoderBuckets, Size
from models.fields import ABSENT, Settings, Spec, require, require_positive

SIZE_NUMBERS: Final = 6
_SIZE_FEATURES: Final = 32


class AnyDecoderSpec(Protocol):
    """What every decoder's spec says, a cascade's too."""

    @property
    def kind(self) -> str:
        """The kind: the key of its registry."""

    @property
    def embed_dim(self) -> int:
        """Width of the CLIP image embedding, all concatenated models together."""

    @property
    def resolution(self) -> int:
        """Side of square images in pixels."""

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Widths and heights that images can have, the square among them."""

    @property
    def text_dim(self) -> int:
        """Width of the CLIP text embedding that is a condition, too; 0: no texts are read."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, kind included, as JSON-ready values."""


class RandomInput(NamedTuple):
    """Random numbers that a training loss takes for each sample."""

    source: Literal["normal", "uniform", "times", "dropout"]
    """normal, uniform: from the sample's own stream, in the order of declaration; times, dropout: one uniform number
    of the sample, independent of the stream and of the other."""
    shape: tuple[int, ...] = ()


def denoising_random_inputs(shape: tuple[int, ...], embed_dim: int) -> Mapping[str, RandomInput]:
    """Return what a denoising loss takes: noise of a sample's shape, a time, and what happens to the embedding."""
    return {
        "noise": RandomInput("normal", shape),
        "blur": RandomInput("normal", (embed_dim,)),
        "time": RandomInput("times"),
        "dropout": RandomInput("dropout"),
    }


@dataclass(frozen=True, kw_only=True)
class DecoderSpec(Spec):
    """Base of the spec of a decoder.

    A kind that trains on images and embeddings declares everything here and needs no code elsewhere: its dataclass
    fields but kind, embed_dim, resolution and text_dim are the keys of its section.
    """

    has_first_stage: ClassVar[bool] = False
    """Whether it generates latents or codes, of which an autoencoder makes images."""
    version: ClassVar[int] = 1
    """Raised whenever the same settings would now give another decoder."""
    training: ClassVar[Mapping[str, Any]] = {}
    """Defaults of the section `training`, where the kind has some of its own."""

    trained: ClassVar[str]
    """What makes of the spec what is trained, as `module:callable`.

    That is a module which holds the decoder as `decoder` (or whose task knows where it is). It is called with a batch
    of images as bytes [batch, height, width, 3], embeddings [batch, embed] and the random inputs, and returns "loss"
    [batch] and other quantities of each sample.
    """

    loss_fields: ClassVar[tuple[str, ...]] = ()
    """Fields beside the kind and the resolution without which a loss says nothing; those of settings say it themselves
    (:meth:`~models.fields.Settings.of_loss`)."""

    kind: str
    embed_dim: int
    """Width of the CLIP image embedding, all concatenated models together."""

    def __post_init__(self) -> None:
        require_positive(self, "embed_dim")
        require(self, "text_dim", self.text_dim >= 0, "0 or more")

    @property
    def text_dim(self) -> int:
        """Width of the CLIP text embedding that is a condition, too; 0: no texts are read."""
        return 0

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Widths and heights that images can have, the square among them."""
        side: int = self.resolution  # type: ignore[attr-defined]  # a field, or a property, of every kind
        return ((side, side),)

    def of_loss(self) -> dict[str, Any]:
        """Return what the training loss is of."""
        own = {name: getattr(self, name) for name in ("kind", "resolution", *self.loss_fields)}
        return own | super().of_loss()

    def build_training(self) -> Any:
        """Return what is trained, with random weights; imports torch."""
        return resolve_name(self.trained)(self)

    def random_inputs(self) -> Mapping[str, RandomInput]:
        """Return the random numbers of a sample that the loss takes, by their names in the batch."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class BucketedSpec(DecoderSpec):
    """Base of the specs of denoisers, whose images may have several sizes."""

    buckets: DecoderBuckets | None = field(default=None, metadata=ABSENT)
    """The sizes beside the square; none: squares only."""

    @property
    def cell(self) -> int:
        """Pixels that sides must be multiples of."""
        raise NotImplementedError

    def grid_shape(self, size: Size) -> tuple[int, int, int]:
        """Return channels, rows and columns of what is denoised for images of a width and height."""
        raise NotImplementedError

    def require_buckets(self) -> None:
        """Refuse buckets that the network has no grid for."""
        if self.buckets is not None:
            self.buckets.require_fit(super().sizes[0][0], self.cell)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Widths and heights that images can have, the square among them."""
        return super().sizes if self.buckets is None else self.buckets.sizes(super().sizes[0][0])

    @property
    def is_conditioned_on_size(self) -> bool:
        """Whether the network knows an image's original size, its crop and its bucket."""
        return self.buckets is not None and self.buckets.size_conditioning

    @property
    def size_features(self) -> int:
        """Width of the Fourier features of each of the numbers that say a size; 0: the network gets none."""
        return _SIZE_FEATURES if self.is_conditioned_on_size else 0

    @property
    def pixels_per_position(self) -> int:
        """Pixels per side of a position of what is denoised."""
        square = super().sizes[0]
        return square[0] // self.grid_shape(square)[2]

    def random_inputs(self, size: Size | None = None) -> Mapping[str, RandomInput]:
        """Return those of the denoising loss, for images of a size or for squares."""
        return denoising_random_inputs(self.grid_shape(size or super().sizes[0]), self.embed_dim)


@dataclass(frozen=True, kw_only=True)
class EmbeddingDropout(Settings):
    """What happens to embeddings in training."""

    empty_probability: float = 0.1
    """Fraction of embeddings replaced by the learned empty one, for classifier-free guidance."""
    embedding_noise: float = 0.1
    """Std of the noise added to standardized embeddings, so that the decoder tolerates a prior's errors."""

    def __post_init__(self) -> None:
        require(self, "empty_probability", 0.0 <= self.empty_probability < 1.0, "0 up to, not including, 1")
        require(self, "embedding_noise", self.embedding_noise >= 0.0, "0 or more")

    def of_loss(self) -> dict[str, Any]:
        """Return what the loss depends on: it is taken of embeddings that are changed as in training."""
        return {"empty_probability": self.empty_probability, "embedding_noise": self.embedding_noise}


@dataclass(frozen=True, kw_only=True)
class Conditioning(EmbeddingDropout):
    """How an embedding enters a network that attends to its tokens and sees a layout map made of it."""

    num_tokens: int = 8
    """Tokens that the embedding is projected to."""
    token_dim: int = 128
    layout_channels: int = 16
    """Channels of the map that an MLP makes of the embedding and that joins the input; 0: no map."""
    layout_resolution: int = 8
    layout_hidden: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "num_tokens", "token_dim", "layout_hidden")
        require(self, "layout_channels", self.layout_channels >= 0, "0 or more")

    def require_layout(self, side: int, grid: str) -> None:
        """Refuse a layout map that does not divide the network's grid."""
        fits = self.layout_resolution >= 1 and side % self.layout_resolution == 0
        require(self, "layout_resolution", fits or not self.layout_channels, f"a divisor of {grid}, {side}")
