"""Moves embeddings towards the nearest that a decoder has learned from.

A prior answers a caption with what lies between the images that it allows, where a decoder that was trained on few
images has learned nothing. To condition the generator on embeddings of an index of images instead is the idea of
kNN-Diffusion (arXiv 2204.02849) and of retrieval-augmented diffusion (arXiv 2204.11824); there it is trained on
neighbours, here the decoder stays as it is, and what it is given is moved to where it has been.

Symbols: e = embedding [batch, embed]; x_i = embeddings of the index [num, embed]; m, s = mean and standard deviation
of these in each dimension [embed]; w = weight, 0 to 1;

    e' = (1 - w) e + w x_n,   n = argmax_i cos(q, (x_i - m) / s),   q = (e - m) / s

The caption's text embedding t may be asked as well (:func:`joint_query`).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from models.normalization import Normalization
from models.retrieval.spec import IndexSpec

_ROWS_AT_ONCE = 16_384  # bounds the memory of a search, whatever the size of the index

Embeddings = Float[Tensor, "batch embed"]


class EmbeddingIndex(nn.Module):
    """The embeddings, and their mean and standard deviation."""

    rows: Tensor

    def __init__(self, spec: IndexSpec) -> None:
        super().__init__()
        self.spec = spec
        dtype = torch.float16 if spec.storage == "float16" else torch.float32
        self.register_buffer("rows", torch.zeros(spec.num_embeddings, spec.embed_dim, dtype=dtype))
        self.normalization = Normalization(spec.embed_dim, floor=1e-4)

    @classmethod
    def of(cls, rows: Float[Tensor, "num embed"]) -> "EmbeddingIndex":
        """Return an index of embeddings, kept in half precision where that loses nothing.

        Raises:
            ValueError: there are none, or numbers that are not finite.
        """
        if not torch.isfinite(rows).all():
            raise ValueError("embeddings: found numbers that are not finite: expected finite ones")
        is_half = torch.equal(rows.half().to(rows.dtype), rows)
        index = cls(IndexSpec(len(rows), rows.shape[1], "float16" if is_half else "float32"))
        index.normalization.measure(rows)
        index.rows.copy_(rows)
        return index

    def is_finite(self) -> bool:
        """Return whether every number is one that embeddings can be compared by."""
        numbers = (self.rows, self.normalization.mean, self.normalization.std)
        return all(bool(torch.isfinite(one).all()) for one in numbers) and bool((self.normalization.std > 0).all())

    def nearest(self, embeddings: Embeddings, queries: Embeddings | None = None) -> Int[Tensor, "batch"]:
        """Return n for each embedding, or for q where these are given; ties go to the lowest."""
        best = torch.full((len(embeddings),), -torch.inf, device=embeddings.device)
        found = torch.zeros(len(embeddings), dtype=torch.int64, device=embeddings.device)
        directions = self._directions(embeddings) if queries is None else F.normalize(queries, dim=1)
        for number, part in enumerate(torch.split(self.rows, _ROWS_AT_ONCE)):
            cosine, index = (directions @ self._directions(part).T).max(dim=1)
            is_nearer = cosine > best
            found = torch.where(is_nearer, index + number * _ROWS_AT_ONCE, found)
            best = torch.where(is_nearer, cosine, best)
        return found

    def forward(self, embeddings: Embeddings, weight: float, queries: Embeddings | None = None) -> Embeddings:
        """Return e' in single precision; ``queries`` are q, none: of the embeddings alone."""
        retrieved = self.rows[self.nearest(embeddings, queries)].float()
        return torch.lerp(embeddings.float(), retrieved, weight)

    def _directions(self, embeddings: Float[Tensor, "rows embed"]) -> Float[Tensor, "rows embed"]:
        return F.normalize(self.normalization.normalize(embeddings), dim=1)


def joint_query(
    embeddings: Embeddings, texts: Embeddings, image_scale: Normalization, text_scale: Normalization
) -> Embeddings:
    """Return q for embeddings of captions and the text embeddings t of these, which are of one space,

        q = d((e - m_e) / s_e) + d((t - m_t) / s_t),   d(v) = v / |v|

    with mean and standard deviation of the images and of the captions that a prior has learned from. The decoder may
    have learned from other images, so each side of a comparison is standardized within its own.
    """
    directions = (image_scale.normalize(embeddings), text_scale.normalize(texts))
    return torch.stack([F.normalize(one, dim=1) for one in directions]).sum(0)
