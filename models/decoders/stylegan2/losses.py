"""The losses of adversarial training, each a number per sample.

Papers: Goodfellow et al. (arXiv 1406.2661) for the non-saturating loss; Mescheder et al. (arXiv 1801.04406, eq. 9)
for R1; StyleGAN2 (arXiv 1912.04958, eq. 4) for path length; van den Oord et al. (arXiv 1807.03748, eq. 4) for InfoNCE;
Lafite (arXiv 2111.13792) for the contrast between generated images and embeddings, and for pseudo text; Wang et al.
(pix2pixHD, arXiv 1711.11585, eq. 4) for the likeness of what the discriminator saw.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.whole_batch import ALONE, WholeBatch

Losses = Float[Tensor, " batch"]
Rows = Float[Tensor, "batch embed"]


def generator_loss(generated: Losses) -> Losses:
    """Return -log sigmoid(D(generated)): non-saturating."""
    return F.softplus(-generated)


def discriminator_loss(true: Losses, generated: Losses) -> Losses:
    """Return -log sigmoid(D(true)) - log(1 - sigmoid(D(generated)))."""
    return F.softplus(-true) + F.softplus(generated)


def gradient_penalty(logits: Losses, images: Float[Tensor, "batch 3 height width"]) -> Losses:
    """Return |dD(x)/dx|^2 of each image, itself differentiable; R1 is half of it, times gamma."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3))


def path_lengths(
    images: Float[Tensor, "batch 3 height width"],
    w: Float[Tensor, "batch style"],
    noise: Float[Tensor, "batch 3 height width"],
) -> Losses:
    """Return |J_w^T y| of each image, for y = noise / sqrt(pixels), itself differentiable."""
    scaled = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * scaled).sum(), w, create_graph=True)
    return (gradient.float().square().sum(dim=1) + 1e-12).sqrt()  # the small number keeps the root's gradient finite


def info_nce(
    queries: Rows,
    keys: Rows,
    *,
    temperature: float,
    blocks: Sequence[int] | None = None,
    whole_batch: WholeBatch = ALONE,
) -> Losses:
    """Return -log( exp(c_ii / t) / sum_j exp(c_ij / t) ), c_ij = cos(key_i, query_j), for each key i; j: the batch.

    `blocks` are the widths of concatenated embeddings, whose cosines are averaged.
    """
    all_queries = whole_batch.joined(queries.float())
    logits = block_cosines(keys, all_queries, blocks) / temperature  # [count, batch]
    right = torch.arange(len(all_queries), device=keys.device)[whole_batch.own(len(queries))]
    return F.cross_entropy(logits, right, reduction="none")


def feature_distance(generated: Sequence[Tensor], true: Sequence[Tensor]) -> Losses:
    """Return the mean absolute difference of the maps [batch, channel, row, column], averaged over the grids."""
    pairs = zip(generated, true, strict=True)
    return torch.stack([(a.float() - b.float()).abs().mean(dim=(1, 2, 3)) for a, b in pairs]).mean(dim=0)


def block_cosines(left: Rows, right: Rows, blocks: Sequence[int] | None = None) -> Float[Tensor, "left right"]:
    """Return the cosine of every pair, averaged over the blocks, in single precision."""
    widths = list(blocks or (left.shape[1],))
    pairs = zip(torch.split(left.float(), widths, dim=1), torch.split(right.float(), widths, dim=1), strict=True)
    with torch.autocast(left.device.type, enabled=False):
        return torch.stack([F.normalize(a, dim=1) @ F.normalize(b, dim=1).T for a, b in pairs]).mean(dim=0)


def pseudo_text(embeddings: Rows, noise: Rows, xi: float) -> Rows:
    """Return h = z + xi |z| eps / |eps|, brought back to the length of z (Lafite, arXiv 2111.13792, eq. 1).

    For eps standard normal of many dimensions, cos(h, z) is near 1 / sqrt(1 + xi^2).
    """
    length = embeddings.norm(dim=1, keepdim=True)
    moved = embeddings + xi * length * F.normalize(noise, dim=1)
    renormalized: Rows = length * F.normalize(moved, dim=1)
    return renormalized
