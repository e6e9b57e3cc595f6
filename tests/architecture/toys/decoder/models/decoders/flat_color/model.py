"""The decoder to one color."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.decoders.base import Decoder, Embeddings, Images, Init, Seeds, Text, from_bytes, require_seeds
from models.decoders.flat_color.spec import FlatColorSpec
from models.decoders.sampling import DecoderSampling


class FlatColorDecoder(Decoder):
    """Predicts an image's mean color and fills the image with it."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: FlatColorSpec) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.spec: FlatColorSpec = spec
        self.network = nn.Sequential(
            nn.Linear(spec.embed_dim, spec.hidden), nn.GELU(), nn.Linear(spec.hidden, 3), nn.Tanh()
        )
        self.register_buffer("mean", torch.zeros(spec.embed_dim))
        self.register_buffer("std", torch.ones(spec.embed_dim))

    def set_embedding_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize embeddings by the training set's mean and std."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, embeddings: Embeddings) -> Float[Tensor, "batch 3"]:
        """Return colors in [-1, 1]."""
        colors: Tensor = self.network((embeddings - self.mean) / self.std)
        return colors

    def sample(
        self, embeddings: Embeddings, seeds: Seeds, sampling: DecoderSampling, text: Text = None, init: Init = None
    ) -> Images:
        """Return images of one color; seeds change nothing."""
        require_seeds(embeddings, seeds)
        side = self.spec.resolution
        return self(embeddings)[:, :, None, None].expand(-1, -1, side, side)


class FlatColorLoss(nn.Module):
    """The decoder under its loss."""

    def __init__(self, spec: FlatColorSpec) -> None:
        """Make the decoder."""
        super().__init__()
        self.decoder = FlatColorDecoder(spec)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the squared error of each sample's color."""
        colors = from_bytes(batch["images"]).mean((2, 3))
        return {"loss": (self.decoder(batch["embeddings"]) - colors).square().mean(1)}
