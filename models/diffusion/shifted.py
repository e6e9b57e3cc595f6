"""Shifted diffusion: a diffusion process that ends in N(mu, Sigma) instead of N(0, I).

Paper: Shifted Diffusion for Text-to-image Generation (CVPR 2023, arXiv 2211.15388), section 3;
method eqs. 1-4. With mu = 0 and Sigma = I it is DDPM (arXiv 2006.11239), the baseline.

Symbols:
    z_t         embedding at time t, z_0 clean                            [batch, embed]
    mu, S       mean and Sigma^(1/2) (diagonal) of the sample's Gaussian  [batch, embed]
    a           alpha_{t|s} = abar_t / abar_s for times s < t; with s = t - 1 it is alpha_t
    b           beta_{t|s} = 1 - a
Every formula holds for any pair s < t, so a sampler may skip times: skipping is what respacing the betas means.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.buffers import ExactBuffers
from models.diffusion.schedules import alpha_bars
from models.priors.spec import ScheduleSettings, Variance

Times = Int[Tensor, "batch"]
Embeddings = Float[Tensor, "batch embed"]


@dataclass(frozen=True)
class Moments:
    """Mean and Sigma^(1/2) of the Gaussian that each sample's process ends in."""

    mean: Embeddings
    std: Embeddings

    def whiten(self, z: Embeddings) -> Embeddings:
        """Return u = Sigma^(-1/2) (z - mu)."""
        return (z - self.mean) / self.std

    def colour(self, u: Embeddings) -> Embeddings:
        """Return z = mu + Sigma^(1/2) u."""
        return self.mean + self.std * u

    def detach(self) -> "Moments":
        """Return the same numbers, through which no gradient flows."""
        return Moments(self.mean.detach(), self.std.detach())


class ShiftedDiffusion(ExactBuffers):
    """The process; holds the schedule (float64) and no weights."""

    alpha_bar: Tensor

    def __init__(self, settings: ScheduleSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("alpha_bar", alpha_bars(settings), persistent=False)

    def abar(self, t: Times, like: Tensor) -> Float[Tensor, "batch 1"]:
        """Return abar_t as a column in the dtype of another tensor; computed in float64."""
        return self.alpha_bar[t].to(like.dtype)[:, None]

    def one_minus_abar(self, t: Times, like: Tensor) -> Float[Tensor, "batch 1"]:
        """Return 1 - abar_t likewise; it is subtracted in float64, because near t = 0 float32 would lose digits."""
        return (1 - self.alpha_bar[t]).to(like.dtype)[:, None]

    def diffuse_step(self, z: Embeddings, t: Times, gaussian: Moments, noise: Embeddings) -> Embeddings:
        """Sample q(z_t | z_{t-1}) = N(sqrt(alpha_t) z_{t-1} + (1 - sqrt(alpha_t)) mu, beta_t Sigma) (method eq. 1)."""
        a = (self.alpha_bar[t] / self.alpha_bar[t - 1]).to(z.dtype)[:, None]
        return a.sqrt() * z + (1 - a.sqrt()) * gaussian.mean + (1 - a).sqrt() * gaussian.std * noise

    def diffuse(self, z_0: Embeddings, t: Times, gaussian: Moments, noise: Embeddings) -> Embeddings:
        """Sample q(z_t | z_0) = N(sqrt(abar_t) z_0 + (1 - sqrt(abar_t)) mu, (1 - abar_t) Sigma) (method eq. 2)."""
        root = self.abar(t, z_0).sqrt()
        return root * z_0 + (1 - root) * gaussian.mean + self.one_minus_abar(t, z_0).sqrt() * gaussian.std * noise

    def posterior(
        self, z_t: Embeddings, z_0: Embeddings, t: Times, s: Times, gaussian: Moments
    ) -> tuple[Embeddings, Embeddings]:
        """Return mean and standard deviation of q(z_s | z_t, z_0) for s < t (method eq. 3, there with s = t - 1).

        mean = c1 z_0 + c2 (z_t - (1 - sqrt(a)) mu) + c3 mu,  variance = b (1 - abar_s) / (1 - abar_t) Sigma
        c1 = b sqrt(abar_s) / (1 - abar_t)
        c2 = sqrt(a) (1 - abar_s) / (1 - abar_t)
        c3 = b (1 - sqrt(abar_s)) / (1 - abar_t)
        With s = 0 the mean is z_0 and the deviation 0.
        """
        abar_t, abar_s = self.alpha_bar[t], self.alpha_bar[s]  # float64: [batch]
        a = abar_t / abar_s
        b = 1 - a
        c1, c2, c3, variance = (
            value.to(z_t.dtype)[:, None]
            for value in (
                b * abar_s.sqrt() / (1 - abar_t),
                a.sqrt() * (1 - abar_s) / (1 - abar_t),
                b * (1 - abar_s.sqrt()) / (1 - abar_t),
                b * (1 - abar_s) / (1 - abar_t),
            )
        )
        shift = (1 - a.sqrt()).to(z_t.dtype)[:, None] * gaussian.mean
        mean = c1 * z_0 + c2 * (z_t - shift) + c3 * gaussian.mean
        return mean, variance.sqrt() * gaussian.std

    def ancestral(
        self, z_t: Embeddings, z_0: Embeddings, t: Times, s: Times, gaussian: Moments, variance: Variance = "posterior"
    ) -> tuple[Embeddings, Embeddings]:
        """Return mean and standard deviation of the ancestral step from t to s < t.

        Its variance is that of the posterior, or the large one, b Sigma (the two bounds of DDPM, section 3.2); a step
        to s = 0 adds no noise.
        """
        mean, std = self.posterior(z_t, z_0, t, s, gaussian)
        if variance == "large":
            b = 1 - self.alpha_bar[t] / self.alpha_bar[s]
            std = torch.where(s > 0, b, 0).to(z_t.dtype)[:, None].sqrt() * gaussian.std
        return mean, std

    def ddim(
        self, z_t: Embeddings, z_0: Embeddings, t: Times, s: Times, gaussian: Moments, eta: float = 0.0
    ) -> tuple[Embeddings, Embeddings]:
        """Return mean and standard deviation of the DDIM step from t to s < t (arXiv 2010.02502, eqs. 12 and 16).

        It is taken on u = Sigma^(-1/2) (z - mu), in which the process is ordinary DDPM. With eta = 0 it adds no noise;
        with eta = 1 it is the ancestral step with the posterior's variance.
        """
        u_t, u_0 = gaussian.whiten(z_t), gaussian.whiten(z_0)
        abar_t, abar_s = self.alpha_bar[t], self.alpha_bar[s]
        variance = eta**2 * (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)  # of u_s: [batch]
        direction = (1 - abar_s - variance).clamp_min(0).sqrt().to(z_t.dtype)[:, None]
        noise = (u_t - self.abar(t, z_t).sqrt() * u_0) / self.one_minus_abar(t, z_t).sqrt()
        u_s = self.abar(s, z_t).sqrt() * u_0 + direction * noise
        return gaussian.colour(u_s), variance.sqrt().to(z_t.dtype)[:, None] * gaussian.std

    def snr(self, t: Times) -> Float[Tensor, "batch"]:
        """Return abar_t / (1 - abar_t) of the whitened process, float64; t is at least 1."""
        return self.alpha_bar[t] / (1 - self.alpha_bar[t])
