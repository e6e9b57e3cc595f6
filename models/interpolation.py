"""The path from one embedding to another along the sphere (Shoemake 1985; DALL-E 2, arXiv 2204.06125, section 3.2).

Symbols: a, b = embeddings: [batch, embed]; s = fraction of the path from a to b, 0 to 1: [batch];
omega = angle between the directions of a and b: [batch].
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.similarity import blocks_of

Embeddings = Float[Tensor, "batch embed"]

_STRAIGHT = 1e-5  # sine of the angle below which an arc is a line within rounding, or not unique


def slerp(a: Embeddings, b: Embeddings, fraction: Float[Tensor, "batch"], block_dims: Sequence[int]) -> Embeddings:
    """Return embeddings on the arc from a to b, taken for each CLIP model's block by itself.

    direction = [sin((1 - s) omega) a/|a| + sin(s omega) b/|b|] / sin(omega);  norm = (1 - s) |a| + s |b|.
    At 0 and 1 they are a and b themselves.
    """
    s = fraction[:, None].double()
    pairs = zip(blocks_of(a.double(), block_dims), blocks_of(b.double(), block_dims), strict=True)
    between = torch.cat([_arc(x, y, s) for x, y in pairs], dim=-1).to(a.dtype)
    return torch.where(s <= 0, a, torch.where(s >= 1, b, between))


def _arc(x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    x_hat, y_hat = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
    cosine = (x_hat * y_hat).sum(-1, keepdim=True).clamp(-1, 1)
    omega = torch.acos(cosine)
    sine = torch.sin(omega)
    if bool(((sine < _STRAIGHT) & (cosine < 0)).any()):
        raise ValueError("slerp: found opposite embeddings: expected ones between which one arc is the shortest")
    arc = (torch.sin((1 - s) * omega) * x_hat + torch.sin(s * omega) * y_hat) / sine.clamp_min(_STRAIGHT)
    direction = F.normalize(torch.where(sine < _STRAIGHT, torch.lerp(x_hat, y_hat, s), arc), dim=-1)
    return direction * torch.lerp(x.norm(dim=-1, keepdim=True), y.norm(dim=-1, keepdim=True), s)
