"""Conditioning on a CLIP image embedding: standardization, the empty embedding, noise, tokens and layout.

Symbols: z = raw CLIP image embedding; u = (z - mean) / std, its standardized form; v = the same of a CLIP text
embedding: [batch, embed].
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.decoders.spec import Conditioning
from models.normalization import Normalization


@dataclass(frozen=True)
class LayoutConfig:
    """A map that an MLP makes of the embedding: [channels, resolution, resolution]."""

    channels: int
    resolution: int
    hidden: int


class TextConditioner(Normalization):
    """What a text says beside an image embedding, to be added to its tokens: W v, and W is 0 at first.

    So a trained network is the same bit for bit until it has learned to read texts. No text is v = 0, which adds
    nothing either.
    """

    def __init__(self, text_dim: int, *, num_tokens: int, token_dim: int) -> None:
        super().__init__(text_dim)
        self._token_shape = (num_tokens, token_dim)
        self.project = nn.Linear(text_dim, num_tokens * token_dim, bias=False)
        nn.init.zeros_(self.project.weight)

    def standardize(self, text: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
        """Return v = (text - mean) / std, computed in single precision; 0 for a row of NaN, which is no text."""
        missing = text.isnan().any(dim=1, keepdim=True)
        v = self.normalize(text.nan_to_num()).to(self.project.weight.dtype)
        return v.masked_fill(missing, 0)

    def forward(self, v: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch token width"]:
        """Return what is to be added to the tokens."""
        tokens: Tensor = self.project(v).unflatten(1, self._token_shape)
        return tokens


class EmbeddingConditioner(Normalization):
    """Turns embeddings into what a network takes: a vector, tokens and a layout map."""

    def __init__(
        self,
        embed_dim: int,
        *,
        num_tokens: int = 0,
        token_dim: int = 0,
        layout: LayoutConfig | None = None,
        empty_probability: float = 0.1,
        embedding_noise: float = 0.0,
    ) -> None:
        """Start with statistics that leave embeddings as they are; ``num_tokens`` 0 makes no tokens."""
        super().__init__(embed_dim)
        self.empty_probability = empty_probability
        self.embedding_noise = embedding_noise
        self.empty = nn.Parameter(0.02 * torch.randn(embed_dim))
        self._token_shape = (num_tokens, token_dim)
        self.tokens = nn.Linear(embed_dim, num_tokens * token_dim) if num_tokens else None
        self._layout_shape = (layout.channels, layout.resolution, layout.resolution) if layout else ()
        self.layout = _layout_network(embed_dim, layout) if layout else None

    def standardize(self, embeddings: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
        """Return u = (z - mean) / std, computed in single precision."""
        return self.normalize(embeddings).to(self.empty.dtype)

    def in_training(
        self,
        embeddings: Float[Tensor, "batch embed"],
        blur: Float[Tensor, "batch embed"],
        dropout: Float[Tensor, "batch"],
    ) -> Float[Tensor, "batch embed"]:
        """Return u with noise, or the learned empty embedding.

        ``blur`` is standard normal; ``dropout``, uniform in [0, 1), makes an embedding the empty one where it is below
        ``empty_probability``.
        """
        u = self.standardize(embeddings)
        u = u + self.embedding_noise * blur.to(u.dtype)
        return self.drop(u, dropout < self.empty_probability)

    def drop(self, u: Float[Tensor, "batch embed"], dropped: Bool[Tensor, "batch"]) -> Float[Tensor, "batch embed"]:
        """Put the learned empty embedding where `dropped` says so."""
        return torch.where(dropped[:, None], self.empty.to(u.dtype), u)

    def with_empty(self, u: Float[Tensor, "batch embed"]) -> Float[Tensor, "2*batch embed"]:
        """Return u, and below it as many empty embeddings: what guidance compares."""
        return torch.cat([u, self.empty.to(u.dtype).expand_as(u)])

    def token_states(self, u: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch token width"]:
        """Return the embedding's tokens, for cross-attention."""
        if self.tokens is None:
            raise ValueError("EmbeddingConditioner: found num_tokens 0: expected 1 or more for cross-attention")
        tokens: Tensor = self.tokens(u).unflatten(1, self._token_shape)
        return tokens

    def layout_map(self, u: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch channel row column"] | None:
        """Return the layout map, if the conditioner makes one."""
        return None if self.layout is None else self.layout(u).unflatten(1, self._layout_shape)


def make_conditioner(embed_dim: int, settings: Conditioning) -> EmbeddingConditioner:
    """Return the conditioner that settings describe."""
    layout = LayoutConfig(settings.layout_channels, settings.layout_resolution, settings.layout_hidden)
    return EmbeddingConditioner(
        embed_dim,
        num_tokens=settings.num_tokens,
        token_dim=settings.token_dim,
        layout=layout if settings.layout_channels else None,
        empty_probability=settings.empty_probability,
        embedding_noise=settings.embedding_noise,
    )


def _layout_network(embed_dim: int, layout: LayoutConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(embed_dim, layout.hidden),
        nn.SiLU(),
        nn.Linear(layout.hidden, layout.hidden),
        nn.SiLU(),
        nn.Linear(layout.hidden, layout.channels * layout.resolution**2),
    )
