"""Classifier-free guidance on predictions of z_0.

Papers: Classifier-free diffusion guidance (arXiv 2207.12598); Common diffusion noise schedules and sample steps are
flawed (arXiv 2305.08891), section 3.4, for the rescaling.
"""

import torch
from torch import Tensor

from models.diffusion.shifted import Embeddings
from models.priors.base import EmbeddingScale


def guide(
    captioned: Embeddings, plain: Embeddings, *, scale: float, rescale: float, embeddings: EmbeddingScale
) -> Embeddings:
    """Return plain + scale (captioned - plain), in all dimensions, with its inflation taken back by ``rescale``.

    For the rescaling an embedding is standardised by the mean m and deviation s of training embeddings, F = (z_0 - m) /
    s, because a few dimensions of CLIP embeddings are many times larger than the others. With std taken over the
    dimensions of one embedding (an image's pixels in the paper):

        F' = F_guided std(F_captioned) / std(F_guided),    F = rescale F' + (1 - rescale) F_guided
    """
    guided = plain + scale * (captioned - plain)
    if rescale == 0.0:
        return guided
    m, s = embeddings.mean, embeddings.std
    answer = (guided - m) / s
    wanted, found = _spread((captioned - m) / s), _spread(answer)
    factor = torch.where(found > 0, wanted / found, 1)  # [batch, 1]
    return m + s * answer * (rescale * factor + 1 - rescale)


def _spread(answer: Tensor) -> Tensor:
    return answer.std(-1, correction=0, keepdim=True)
