"""What a network predicts, and how x_0 comes back from the prediction.

Papers: Shifted Diffusion (arXiv 2211.15388), section 3 (method eq. 7), for x_0; DDPM (arXiv 2006.11239), eq. 14, for
the noise; Progressive Distillation (arXiv 2202.00512), section 4, for the velocity.

Symbols: eps, u_t, u_0, a_t, b_t as in :mod:`models.diffusion.processes`; v = n eps - m u_0, the velocity, with
n = a_t and m = b_t on the path ddpm, and n = m = 1 on the path flow; in both a_t n + b_t m = 1, hence
u_0 = n u_t - b_t v and eps = m u_t + a_t v.

x_0 is predicted in raw coordinates, as in the paper; noise and velocity live in whitened ones, where they are the
ordinary ones.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from models.diffusion.processes import Gaussian, Process, Samples, Times
from models.diffusion.spec import Target


@dataclass(frozen=True, eq=False)  # with ==, torch.compile would compare tensors
class Affine:
    """A rescaling of the network's output F: prediction = centre + spread F."""

    centre: Float[Tensor, "*batch embed"] | float
    spread: Float[Tensor, "*batch embed"] | float

    def __call__(self, output: Samples) -> Samples:
        """Return the prediction."""
        return self.centre + self.spread * output


def true_target(
    process: Process, target: Target, x_0: Samples, noise: Samples, t: Times, *, gaussian: Gaussian
) -> Samples:
    """Return what a perfect network would predict."""
    if target == "sample":
        return x_0
    if target == "noise":
        return noise
    of_noise, of_clean = process.velocity_variances(t, x_0)
    return of_noise.sqrt() * noise - of_clean.sqrt() * gaussian.whiten(x_0)


def sample_from_target(
    process: Process, target: Target, predicted: Samples, x_t: Samples, t: Times, *, gaussian: Gaussian
) -> Samples:
    """Return the x_0 that a prediction of the target at x_t means; t is above 0.

    For the noise it divides by a_t, which near T makes a small error of the network a large one of x_0.
    """
    if target == "sample":
        return predicted
    (a, b), u_t = process.scales(t, x_t), gaussian.whiten(x_t)
    if target == "noise":
        return gaussian.colour((u_t - b * predicted) / a)
    return gaussian.colour(process.velocity_variances(t, x_t)[0].sqrt() * u_t - b * predicted)


def noise_from_target(
    process: Process, target: Target, predicted: Samples, x_t: Samples, t: Times, *, gaussian: Gaussian
) -> Samples:
    """Return the eps that a prediction of the target at x_t means; t is above 0."""
    if target == "noise":
        return predicted
    (a, b), u_t = process.scales(t, x_t), gaussian.whiten(x_t)
    if target == "sample":
        return (u_t - a * gaussian.whiten(predicted)) / b
    return a * predicted + process.velocity_variances(t, x_t)[1].sqrt() * u_t


def output_scale(
    process: Process,
    target: Target,
    t: Times,
    gaussian: Gaussian,
    *,
    m: Float[Tensor, "*batch embed"],
    s: Float[Tensor, "*batch embed"],
) -> Affine:
    """Return the rescaling by which the network's own output has mean 0 and variance about 1.

    With m, s the mean and standard deviation of embeddings: x_0 = m + s F and eps = F; the velocity has, in
    each dimension, the mean -m' u(m) and the variance n^2 + (m' s / Sigma^(1/2))^2, where m' is the factor of u_0.
    """
    if target == "sample":
        return Affine(m, s)
    if target == "noise":
        return Affine(0.0, 1.0)
    like = gaussian.whiten(m.expand(len(t), -1))
    of_noise, of_clean = process.velocity_variances(t, like)
    return Affine(-of_clean.sqrt() * like, (of_noise + of_clean * (s / gaussian.std).square()).sqrt())
