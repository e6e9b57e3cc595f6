"""Conditioning on a CLIP image embedding: standardization, the empty embedding, tokens and layout.

Symbols: z = raw CLIP image embedding; u = (z - mean) / std, its standardized form: [batch, embed].
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.buffers import ExactBuffers
from models.decoders.config import PixelDecoderConfig


class EmbeddingConditioner(ExactBuffers):
    """Turns embeddings into what the U-Net takes: tokens, a vector and a layout map."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: PixelDecoderConfig) -> None:
        """Start with statistics that leave embeddings as they are."""
        super().__init__()
        width = config.embed_dim
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.empty = nn.Parameter(0.02 * torch.randn(width))
        self._token_shape = (config.num_tokens, config.token_dim)
        self.tokens = nn.Linear(width, config.num_tokens * config.token_dim)
        self._layout_shape = (config.layout_channels, config.layout_resolution, config.layout_resolution)
        self.layout = _layout_network(config) if config.layout_channels else None

    @torch.no_grad()
    def set_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize by these from now on; dimensions that never vary count as deviation 1."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def standardize(self, embeddings: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
        """Return u = (z - mean) / std, computed in single precision."""
        return ((embeddings.float() - self.mean) / self.std).to(self.empty.dtype)

    def drop(self, u: Float[Tensor, "batch embed"], dropped: Bool[Tensor, "batch"]) -> Float[Tensor, "batch embed"]:
        """Put the learned empty embedding where `dropped` says so."""
        return torch.where(dropped[:, None], self.empty.to(u.dtype), u)

    def forward(self, u: Float[Tensor, "batch embed"]) -> tuple[Tensor, Tensor | None]:
        """Return the tokens [batch, token, width] and the layout map [batch, channel, row, column]."""
        tokens = self.tokens(u).unflatten(1, self._token_shape)
        if self.layout is None:
            return tokens, None
        return tokens, self.layout(u).unflatten(1, self._layout_shape)


def _layout_network(config: PixelDecoderConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.embed_dim, config.layout_hidden),
        nn.SiLU(),
        nn.Linear(config.layout_hidden, config.layout_hidden),
        nn.SiLU(),
        nn.Linear(config.layout_hidden, config.layout_channels * config.layout_resolution**2),
    )
