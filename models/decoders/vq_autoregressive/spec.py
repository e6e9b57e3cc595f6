"""The shape of an autoregressive decoder of codes, as plain data: it imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from models.autoencoders.spec import AutoencoderConfig
from models.fields import plain_fields, require


@dataclass(frozen=True, kw_only=True)
class VQDecoderConfig:
    """Every choice that fixes the transformer's weights, its conditioning, and its first stage."""

    kind: Literal["vq_autoregressive"] = "vq_autoregressive"
    embed_dim: int
    """Width of the CLIP image embedding, all concatenated models together."""
    autoencoder: AutoencoderConfig
    width: int = 192
    num_layers: int = 4
    num_heads: int = 6
    feed_forward_factor: float = 4.0
    """Width of the gated feed-forward layers, as a multiple of the width."""
    text_dim: int = 0
    """Width of the CLIP text embedding that is a condition too; 0: no text."""
    reads_image_embedding: bool = True
    """Whether the image embedding is a condition; without it, the text is the only one."""
    num_tokens: int = 4
    """Tokens that each condition is projected to; they stand before the codes."""
    layout_channels: int = 32
    """Channels of the map that an MLP draws from the image embedding and adds at the places; 0 disables it."""
    layout_hidden: int = 512
    empty_probability: float = 0.1
    """Share of conditions replaced by a learned empty one, for classifier-free guidance."""
    embedding_noise: float = 0.0
    """Deviation of the noise added to standardized embeddings in training, to forgive a prior's errors."""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be built, naming the field and what is allowed."""
        for name in ("embed_dim", "width", "num_layers", "num_heads", "num_tokens", "layout_hidden"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "feed_forward_factor", self.feed_forward_factor > 0.0, "above 0")
        require(self, "width", self.width % self.num_heads == 0, f"a multiple of num_heads, {self.num_heads}")
        require(self, "autoencoder", self.autoencoder.kind == "vq", "one of kind vq, which has codes to predict")
        require(self, "text_dim", self.text_dim >= 0, "0 or more")
        told = self.reads_image_embedding or self.text_dim > 0
        require(self, "reads_image_embedding", told, "true where text_dim is 0, or there is nothing to draw from")
        generated = self.reads_image_embedding or not self.layout_channels
        require(
            self, "layout_channels", self.layout_channels >= 0 and generated, "0 or more; 0 without image embedding"
        )
        require(self, "empty_probability", 0.0 <= self.empty_probability < 1.0, "0 up to, not including, 1")
        require(self, "embedding_noise", self.embedding_noise >= 0.0, "0 or more")

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.autoencoder.resolution

    @property
    def num_places(self) -> int:
        """Codes of one image."""
        return self.autoencoder.latent_resolution**2

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values; :meth:`from_dict` reads them back."""
        return plain_fields(self) | {"autoencoder": self.autoencoder.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**{**fields, "autoencoder": AutoencoderConfig(**fields["autoencoder"])})
