"""What the network predicts, how its error is weighed, and how z_0 comes back from the prediction.

Papers: Shifted Diffusion (arXiv 2211.15388), section 3 (method eq. 7), for z_0; DDPM (arXiv 2006.11239), eq. 14, for
the noise; Progressive Distillation (arXiv 2202.00512), section 4, for the velocity; P2 (arXiv 2204.00227), eq. 8, and
Min-SNR (arXiv 2303.09556), section 3.4, for the weights.

Symbols:
    eps        the standard normal noise of method eq. 2                  [batch, embed]
    u_t        Sigma^(-1/2) (z_t - mu) = sqrt(abar_t) u_0 + sqrt(1 - abar_t) eps
    v          sqrt(abar_t) eps - sqrt(1 - abar_t) u_0, the velocity
    S          SNR_t = abar_t / (1 - abar_t)
    w          weight of the target's own mean squared error              [batch]

z_0 is predicted in raw coordinates, as in the paper; noise and velocity live in whitened ones, where they are the
ordinary ones. Errors of one and the same prediction are related, for every dimension, by

    |u_0 error|^2 = |noise error|^2 / S = |velocity error|^2 / (1 + S),      z_0 error = Sigma^(1/2) u_0 error

so that each pair of target and weight is a weight on the error of u_0 (in brackets):

    target      p2                       min_snr                                uniform
    sample      1 / (1 + S)  [the same]  min(S, gamma)            [the same]    1  [1]
    noise       1 / (1 + S)  [abar_t]    min(S, gamma) / S        [as sample]   1  [S]
    velocity    1 / (1 + S)  [1]         min(S, gamma) / (1 + S)  [as sample]   1  [1 + S]

p2 with target sample is method eq. 7. The very same objective on the noise would be the weight (1 - abar_t)^2 / abar_t,
which is huge near T; so p2 weighs each target's own error by 1 / (1 + S), as P2 does.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from models.diffusion.shifted import Embeddings, Moments, ShiftedDiffusion, Times
from models.priors.base import EmbeddingScale
from models.priors.spec import LossWeight, Target


@dataclass(frozen=True)
class Affine:
    """A rescaling of the network's answer F: prediction = centre + spread F."""

    centre: Float[Tensor, "*batch embed"] | float
    spread: Float[Tensor, "*batch embed"] | float

    def __call__(self, answer: Embeddings) -> Embeddings:
        """Return the prediction."""
        return self.centre + self.spread * answer


def true_target(
    process: ShiftedDiffusion, target: Target, z_0: Embeddings, noise: Embeddings, t: Times, gaussian: Moments
) -> Embeddings:
    """Return what a perfect network would predict."""
    if target == "sample":
        return z_0
    if target == "noise":
        return noise
    root, noise_root = process.abar(t, z_0).sqrt(), process.one_minus_abar(t, z_0).sqrt()
    return root * noise - noise_root * gaussian.whiten(z_0)


def sample_from_target(
    process: ShiftedDiffusion, target: Target, predicted: Embeddings, z_t: Embeddings, t: Times, gaussian: Moments
) -> Embeddings:
    """Return the z_0 that a prediction of the target at z_t means; t is at least 1.

    For the noise it divides by sqrt(abar_t), which near T makes a small error of the network a large one of z_0.
    """
    if target == "sample":
        return predicted
    root, noise_root = process.abar(t, z_t).sqrt(), process.one_minus_abar(t, z_t).sqrt()
    u_t = gaussian.whiten(z_t)
    if target == "noise":
        return gaussian.colour((u_t - noise_root * predicted) / root)
    return gaussian.colour(root * u_t - noise_root * predicted)


def output_scale(
    process: ShiftedDiffusion, target: Target, t: Times, gaussian: Moments, embeddings: EmbeddingScale
) -> Affine:
    """Return the rescaling that lets the network answer with numbers of mean 0 and variance about 1.

    With m, s the mean and deviation of training embeddings: z_0 = m + s F and eps = F; the velocity has, in each
    dimension, the mean -sqrt(1 - abar_t) u(m) and the variance abar_t + (1 - abar_t) (s / Sigma^(1/2))^2.
    """
    m, s = embeddings.mean, embeddings.std
    if target == "sample":
        return Affine(m, s)
    if target == "noise":
        return Affine(0.0, 1.0)
    abar, noise_fraction = process.abar(t, gaussian.mean), process.one_minus_abar(t, gaussian.mean)
    centre = -noise_fraction.sqrt() * gaussian.whiten(m.expand_as(gaussian.mean))
    return Affine(centre, (abar + noise_fraction * (s / gaussian.std).square()).sqrt())


def loss_weight(
    process: ShiftedDiffusion, target: Target, weight: LossWeight, t: Times, *, min_snr_gamma: float
) -> Float[Tensor, "batch"]:
    """Return w, by which the mean squared error of the target itself is multiplied (see the table above); float64."""
    snr = process.snr(t)
    if weight == "uniform":
        return snr.new_ones(snr.shape)
    if weight == "p2":
        return 1 - process.alpha_bar[t]  # = 1 / (1 + S)
    clipped = snr.clamp_max(min_snr_gamma)
    if target == "sample":
        return clipped
    return clipped / (snr if target == "noise" else 1 + snr)
