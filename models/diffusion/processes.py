"""Noise processes from data to a Gaussian N(mu, Sigma), of embeddings and images alike.

Papers: Denoising Diffusion Probabilistic Models (arXiv 2006.11239); Shifted Diffusion for Text-to-image Generation
(CVPR 2023, arXiv 2211.15388), section 3, method eqs. 1-4, for mu and Sigma; Flow Straight and Fast (arXiv 2209.03003).

In whitened coordinates u = Sigma^(-1/2) (x - mu) every process mixes data and noise, u_t = a_t u_0 + b_t eps:

    ddpm   a_t = sqrt(abar_t)   b_t = sqrt(1 - abar_t)   t = 0 ... T     velocity v = a_t eps - b_t u_0
    flow   a_t = 1 - t          b_t = t                  t in [0, 1]     velocity v = eps - u_0

mu = 0 and Sigma = I, the standard Gaussian, is the ordinary process (decoders; the prior of DALL-E 2).

Symbols:
    x_t       sample at time t, x_0 clean     [batch, embed] or [batch, channel, row, column]
    mu, S     mean and Sigma^(1/2) (diagonal) of the Gaussian that each sample's process ends in
    a         a_{t|s}^2 = a_t^2 / a_s^2 for times s < t
    b         b_{t|s}^2 = b_t^2 - a b_s^2, the variance that is added from s to t
Every formula holds for any pair s < t, so a sampler may skip times: skipping is what respacing the betas means.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Real
from torch import Tensor

from models.buffers import ExactBuffers
from models.diffusion.schedules import (
    DIFFUSERS_SCHEDULES,
    NUM_TIMESTEPS,
    diffusers_alpha_bars,
    flow_steps,
    respaced_timesteps,
    shifted_times,
)
from models.diffusion.spec import ProcessConfig, Variance

Times = Real[Tensor, " batch"]
Samples = Float[Tensor, "batch *shape"]
Pair = tuple[Tensor, Tensor]
Steps = Sequence[tuple[float, float]]
"""The first and the last time of each step, from T (path flow: 1) to 0."""


@dataclass(frozen=True)
class Gaussian:
    """Mean and Sigma^(1/2) of the Gaussian that each sample's process ends in."""

    mean: Float[Tensor, "batch *shape"] | float = 0.0
    std: Float[Tensor, "batch *shape"] | float = 1.0

    def whiten(self, x: Samples) -> Samples:
        """Return u = Sigma^(-1/2) (x - mu)."""
        return (x - self.mean) / self.std

    def colour(self, u: Samples) -> Samples:
        """Return x = mu + Sigma^(1/2) u."""
        return self.mean + self.std * u


class _StandardGaussian(Gaussian):
    """N(0, I), around which nothing has to be computed."""

    def whiten(self, x: Samples) -> Samples:
        return x

    def colour(self, u: Samples) -> Samples:
        return u


STANDARD = _StandardGaussian()


def column(values: Tensor, like: Tensor) -> Tensor:
    """Return one number per sample in the dtype of samples and with their number of axes."""
    return values.to(like.dtype).reshape(-1, *(1 for _ in like.shape[1:]))


class Process(ExactBuffers):
    """A noise process; it has no weights."""

    num_timesteps: int
    """T, for networks that read the time as a number of a step."""

    def __init__(self, spec: ProcessConfig) -> None:
        super().__init__()
        self.spec = spec

    def time(self, uniform: Float[Tensor, " batch"]) -> Times:
        """Return the times of training for numbers uniform in [0, 1)."""
        raise NotImplementedError

    def count(self, t: Times) -> Times:
        """Return the time as a number from 0 to T."""
        raise NotImplementedError

    def timestep(self, t: Times) -> Float[Tensor, " batch"]:
        """Return the time as diffusers' U-Nets count it, from 0 to about T."""
        raise NotImplementedError

    def steps(self, num_steps: int) -> Steps:
        """Return the first and the last time of each step of a sampler."""
        raise NotImplementedError

    def squares(self, t: Times) -> Pair:
        """Return a_t^2 and b_t^2 in the precision of the schedule: [batch] each."""
        raise NotImplementedError

    def transition(self, t: Times, s: Times) -> Pair:
        """Return a_{t|s}^2 and b_{t|s}^2 likewise."""
        raise NotImplementedError

    def velocity_variances(self, t: Times, like: Tensor) -> Pair:
        """Return the squares of the factors of eps and u_0 in the velocity, as :meth:`variances` does."""
        raise NotImplementedError

    def diffuse(self, x_0: Samples, t: Times, gaussian: Gaussian, noise: Samples) -> Samples:
        """Sample q(x_t | x_0) = N(a_t x_0 + (1 - a_t) mu, b_t^2 Sigma) (method eq. 2)."""
        raise NotImplementedError

    def variances(self, t: Times, like: Tensor) -> Pair:
        """Return a_t^2 and b_t^2 as columns in another tensor's dtype, rounded last: near t = 0 b_t has few digits."""
        a, b = self.squares(t)
        return column(a, like), column(b, like)

    def scales(self, t: Times, like: Tensor) -> Pair:
        """Return a_t and b_t as columns in the dtype of another tensor."""
        a, b = self.variances(t, like)
        return a.sqrt(), b.sqrt()

    def snr(self, t: Times) -> Float[Tensor, " batch"]:
        """Return a_t^2 / b_t^2 in the precision of the schedule; t is above 0."""
        a, b = self.squares(t)
        return (a.sqrt() / b.sqrt()).square()

    def posterior(self, x_t: Samples, x_0: Samples, t: Times, s: Times, gaussian: Gaussian) -> Pair:
        """Return mean and standard deviation of q(x_s | x_t, x_0) for s < t (method eq. 3, there with s = t - 1).

        mean = c1 x_0 + c2 (x_t - (1 - sqrt(a)) mu) + c3 mu,  variance = b b_s^2 / b_t^2 Sigma
        c1 = b a_s / b_t^2
        c2 = sqrt(a) b_s^2 / b_t^2
        c3 = b (1 - a_s) / b_t^2
        With s = 0 the mean is x_0 and the standard deviation 0.
        """
        (_, noise_t), (signal_s, noise_s), (a, b) = self.squares(t), self.squares(s), self.transition(t, s)
        c1, c2, c3, variance = (
            column(value, x_t)
            for value in (
                b * signal_s.sqrt() / noise_t,
                a.sqrt() * noise_s / noise_t,
                b * (1 - signal_s.sqrt()) / noise_t,
                b * noise_s / noise_t,
            )
        )
        shift = column(1 - a.sqrt(), x_t) * gaussian.mean
        mean = c1 * x_0 + c2 * (x_t - shift) + c3 * gaussian.mean
        return mean, variance.sqrt() * gaussian.std

    def ancestral(
        self, x_t: Samples, x_0: Samples, t: Times, s: Times, gaussian: Gaussian, *, variance: Variance = "posterior"
    ) -> Pair:
        """Return mean and standard deviation of the ancestral step from t to s < t.

        Its variance is that of the posterior, or the large one, b Sigma (the two bounds of DDPM, section 3.2); a step
        to s = 0 adds no noise.
        """
        mean, std = self.posterior(x_t, x_0, t, s, gaussian)
        if variance == "large":
            std = column(torch.where(s > 0, self.transition(t, s)[1], 0), x_t).sqrt() * gaussian.std
        return mean, std

    def ddim(self, x_0: Samples, noise: Samples, t: Times, s: Times, gaussian: Gaussian, *, eta: float = 0.0) -> Pair:
        """Return mean and standard deviation of the DDIM step from t to s < t (arXiv 2010.02502, eqs. 12 and 16).

        ``noise`` is the predicted eps. With eta = 0 the step adds no noise (on the path flow it is Euler's); with
        eta = 1 it is the ancestral step with the posterior's variance.
        """
        noise_t, noise_s = self.squares(t)[1], self.squares(s)[1]
        variance = eta**2 * noise_s / noise_t * self.transition(t, s)[1]  # of u_s: [batch]
        direction = column((noise_s - variance).clamp_min(0).sqrt(), x_0)
        u_s = self.scales(s, x_0)[0] * gaussian.whiten(x_0) + direction * noise
        return gaussian.colour(u_s), column(variance.sqrt(), x_0) * gaussian.std


class Ddpm(Process):
    """The variance-preserving process; it holds its schedule in the precision that it is given in."""

    alpha_bar: Tensor

    def __init__(self, spec: ProcessConfig, alpha_bar: Float[Tensor, " timesteps_and_zero"]) -> None:
        super().__init__(spec)
        self.num_timesteps = len(alpha_bar) - 1
        self.register_buffer("alpha_bar", alpha_bar.clone(), persistent=False)

    def time(self, uniform: Float[Tensor, " batch"]) -> Times:
        """Return times in 1 ... T."""
        return (uniform * self.num_timesteps).long().clamp(0, self.num_timesteps - 1) + 1

    def count(self, t: Times) -> Times:
        """Return t itself."""
        return t

    def timestep(self, t: Times) -> Float[Tensor, " batch"]:
        """Return t - 1."""
        return (t - 1).float()

    def steps(self, num_steps: int) -> Steps:
        """Return steps of equal length, up to rounding."""
        return list(itertools.pairwise(respaced_timesteps(self.num_timesteps, num_steps)))

    def squares(self, t: Times) -> Pair:
        """Return abar_t and 1 - abar_t."""
        abar = self.alpha_bar[t]
        return abar, 1 - abar

    def transition(self, t: Times, s: Times) -> Pair:
        """Return a = abar_t / abar_s, which is alpha_t where s = t - 1, and b = 1 - a."""
        a = self.alpha_bar[t] / self.alpha_bar[s]
        return a, 1 - a

    def velocity_variances(self, t: Times, like: Tensor) -> Pair:
        """Return a_t^2 and b_t^2 (Salimans and Ho, arXiv 2202.00512)."""
        return self.variances(t, like)

    def diffuse(self, x_0: Samples, t: Times, gaussian: Gaussian, noise: Samples) -> Samples:
        """Sample q(x_t | x_0)."""
        a, b = self.scales(t, x_0)
        return a * x_0 + (1 - a) * gaussian.mean + b * gaussian.std * noise


class Flow(Process):
    """Rectified flow: a straight line from data to the Gaussian.

    A ``shift`` moves times, in training and in sampling, towards the noise (above 1) or the data (below);
    see :func:`models.diffusion.schedules.shifted_times`.
    """

    def __init__(self, spec: ProcessConfig, num_timesteps: int = NUM_TIMESTEPS, *, shift: float = 1.0) -> None:
        super().__init__(spec)
        self.num_timesteps = num_timesteps
        self._shift = shift

    def time(self, uniform: Float[Tensor, " batch"]) -> Times:
        """Return the numbers themselves, shifted."""
        return shifted_times(uniform, self._shift)

    def count(self, t: Times) -> Times:
        """Return T t."""
        return t * self.num_timesteps

    def timestep(self, t: Times) -> Float[Tensor, " batch"]:
        """Return T t, too."""
        return self.count(t)

    def steps(self, num_steps: int) -> Steps:
        """Return steps of equal length before the shift."""
        return [(shifted_times(t, self._shift), shifted_times(s, self._shift)) for t, s in flow_steps(num_steps)]

    def squares(self, t: Times) -> Pair:
        """Return (1 - t)^2 and t^2, float64."""
        t = t.double()
        return (1 - t).square(), t.square()

    def transition(self, t: Times, s: Times) -> Pair:
        """Return a and b."""
        (signal_t, noise_t), (signal_s, noise_s) = self.squares(t), self.squares(s)
        a = signal_t / signal_s
        return a, noise_t - a * noise_s

    def velocity_variances(self, t: Times, like: Tensor) -> Pair:
        """Return 1 and 1."""
        one = column(torch.ones_like(t), like)
        return one, one

    def diffuse(self, x_0: Samples, t: Times, gaussian: Gaussian, noise: Samples) -> Samples:
        """Return (1 - t) x_0 + t x_1, where x_1 is a sample of the Gaussian."""
        return torch.lerp(x_0, gaussian.colour(noise), column(t, x_0))


def make_process(spec: ProcessConfig, alpha_bar: Float[Tensor, " timesteps_and_zero"] | None = None) -> Process:
    """Return the process; on the path ddpm with this schedule, or else the one that the spec names, of diffusers."""
    if spec.path == "flow":
        return Flow(spec) if alpha_bar is None else Flow(spec, len(alpha_bar) - 1)
    if alpha_bar is None:
        settings = {"beta_schedule": DIFFUSERS_SCHEDULES[spec.schedule]}
        alpha_bar = diffusers_alpha_bars(settings, zero_terminal_snr=spec.zero_terminal_snr)
    return Ddpm(spec, alpha_bar)
