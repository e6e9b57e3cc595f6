"""Classifier-free guidance, and how predicted images are held in their range.

Papers: Classifier-free diffusion guidance (arXiv 2207.12598); Common diffusion noise schedules and sample steps are
flawed (arXiv 2305.08891), section 3.4, for the rescaling; Imagen (arXiv 2205.11487), section 2.3, for the threshold.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.diffusion.processes import Samples, column
from models.normalization import Normalization

Predictor = Callable[[Tensor, Tensor], Tensor]
"""x_t and a time for each sample, or one for all, to the prediction."""


def guide(
    conditional: Samples,
    unconditional: Samples,
    *,
    scale: float,
    rescale: float = 0.0,
    normalization: Normalization | None = None,
) -> Samples:
    """Return unconditional + scale (conditional - unconditional), its inflation reduced by :func:`rescaled`."""
    guided = unconditional + scale * (conditional - unconditional)
    return rescaled(guided, conditional, rescale=rescale, normalization=normalization)


def rescaled(
    guided: Samples, conditional: Samples, *, rescale: float, normalization: Normalization | None = None
) -> Samples:
    """Return the guided prediction with its standard deviation brought back to the conditional one's.

    With std taken over all values of one sample, and F = (x_0 - m) / s where a normalization gives mean m and standard
    deviation s of the training data, because a few dimensions of CLIP embeddings are many times larger than the others:

        F' = F_guided std(F_conditional) / std(F_guided),    F = rescale F' + (1 - rescale) F_guided
    """
    if rescale == 0.0:
        return guided
    m, s = (0.0, 1.0) if normalization is None else (normalization.mean, normalization.std)
    centred = (guided - m) / s
    wanted, found = _spread((conditional - m) / s), _spread(centred)
    factor = torch.where(found > 0, wanted / found, 1)
    return m + s * centred * (rescale * factor + 1 - rescale)


def guided(predict: Predictor, scale: float, rescale: float = 0.0) -> Predictor:
    """Return a guided predictor; ``predict`` takes twice the batch, whose second half has no condition."""

    def predict_guided(x_t: Samples, timestep: Tensor) -> Samples:
        both = timestep.expand(len(x_t)).repeat(2)
        conditional, unconditional = predict(torch.cat([x_t, x_t]), both).chunk(2)
        return rescaled(torch.lerp(unconditional, conditional, scale), conditional, rescale=rescale)

    return predict_guided


def threshold(x_0: Samples, fraction: float | None) -> Samples:
    """Bring predicted images into [-1, 1] by dynamic thresholding.

    s is the absolute value that this fraction of an image's values do not exceed, and at least 1: values are clipped to
    [-s, s] and divided by s. Without a fraction they are clipped to [-1, 1].
    """
    if fraction is None:
        return x_0.clamp(-1, 1)
    sizes = x_0.float().abs().flatten(1)
    s = column(sizes.kthvalue(max(1, math.ceil(fraction * sizes.shape[1])), dim=1).values.clamp_min(1.0), x_0)
    return x_0.clamp(-s, s) / s


def _spread(values: Tensor) -> Tensor:
    return values.std(tuple(range(1, values.ndim)), correction=0, keepdim=True)
