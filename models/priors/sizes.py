"""Named sizes of the priors' network; ``small`` and ``large`` are the released priors of Shifted Diffusion.

Paper: Shifted Diffusion for Text-to-image Generation (arXiv 2211.15388): 16 or 20 layers of width
2048 with 32 heads, about 1.07 B and 1.34 B weights.

A layer of width w holds 3 w^2 (queries, keys, values) + w^2 (attention out) + 3 f w^2 (the gated feed-forward, f its
factor) + 2 w (norms). With w = 2048 the paper's counts leave f = 4, hence 16 w^2 = 67.1 M a layer: 1.074 B in 16
layers, 1.342 B in 20. On top come the projections into and out of the layers: for embeddings of 1536 dimensions and
T5 states of 1024, 9.4 M for the embeddings, 2.3 M for the states, 16.8 M for time and Gaussian index.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

from models.priors.spec import TextStateSpec, TransformerSpec

NetworkSize = Literal["tiny", "base", "small", "large"]

_SIZES: dict[str, TransformerSpec] = {
    "tiny": TransformerSpec(width=128, num_layers=3, num_heads=4),
    "base": TransformerSpec(width=768, num_layers=12, num_heads=12),
    "small": TransformerSpec(width=2048, num_layers=16, num_heads=32),
    "large": TransformerSpec(width=2048, num_layers=20, num_heads=32),
}


def transformer_of_size(name: str, text_states: Mapping[str, TextStateSpec] | None = None) -> TransformerSpec:
    """Return the network of a named size, which reads these token states beside the CLIP text embedding.

    Other settings (qk_norm, gradient_checkpointing, single numbers) are changed by ``dataclasses.replace``.
    """
    if name not in _SIZES:
        raise ValueError(
            f"network size: {name!r} was asked for: allowed are {', '.join(get_args(NetworkSize))}: choose one, or "
            "give width, layers and heads instead"
        )
    return replace(_SIZES[name], text_states=dict(text_states or {}))
