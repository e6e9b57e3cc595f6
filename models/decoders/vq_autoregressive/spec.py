"""The spec of the autoregressive decoder of codes; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from models.autoencoders.spec import AutoencoderSpec
from models.decoders.spec import DecoderSpec, EmbeddingDropout, RandomInput
from models.fields import MOST_FACTOR, require, require_positive


@dataclass(frozen=True, kw_only=True)
class CodeNetwork(EmbeddingDropout):
    """The transformer over codes and how its conditions enter."""

    width: int = 192
    num_layers: int = 4
    num_heads: int = 6
    feed_forward_factor: float = 4.0
    """Width of the gated feed-forward layers, as a multiple of the width."""
    num_tokens: int = 4
    """Tokens that each condition is projected to; they stand before the codes."""
    layout_channels: int = 32
    """Channels of the map that an MLP makes of the image embedding and that is added at the positions; 0: no map."""
    layout_hidden: int = 512
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "width", "num_layers", "num_heads", "num_tokens", "layout_hidden")
        require(
            self, "feed_forward_factor", 0.0 < self.feed_forward_factor <= MOST_FACTOR, f"above 0 up to {MOST_FACTOR}"
        )
        require(self, "width", self.width % self.num_heads == 0, f"a multiple of num_heads, {self.num_heads}")
        require(self, "layout_channels", self.layout_channels >= 0, "0 or more")


@dataclass(frozen=True, kw_only=True)
class VQAutoregressiveSpec(DecoderSpec):
    """A transformer that predicts the codes of a VQ autoencoder one by one."""

    model: ClassVar[str] = "models.decoders.vq_autoregressive.model:VQDecoder"
    trained: ClassVar[str] = "models.decoders.vq_autoregressive.model:build_training"
    has_first_stage: ClassVar[bool] = True

    kind: Literal["vq_autoregressive"] = "vq_autoregressive"
    autoencoder: AutoencoderSpec
    text_dim: int = 0
    reads_image_embedding: bool = True
    """Whether the image embedding is a condition; without it, the text is the only one."""
    network: CodeNetwork = CodeNetwork()

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "autoencoder", self.autoencoder.kind == "vq", "one of kind vq, which has codes to predict")
        conditional = self.reads_image_embedding or self.text_dim > 0
        require(self, "reads_image_embedding", conditional, "true where text_dim is 0: there is no other condition")
        has_map = self.network.layout_channels > 0
        require(self, "network", self.reads_image_embedding or not has_map, "layout_channels 0 without image embedding")

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.autoencoder.resolution

    @property
    def num_codes(self) -> int:
        """Size of the codebook."""
        return self.autoencoder.num_codes or 0

    @property
    def num_positions(self) -> int:
        """Codes of one image."""
        return self.autoencoder.latent_resolution**2

    def random_inputs(self) -> Mapping[str, RandomInput]:
        """Return what happens to the embeddings."""
        return {"blur": RandomInput("normal", (self.embed_dim,)), "dropout": RandomInput("dropout")}
