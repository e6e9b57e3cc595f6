"""Shifted diffusion: a diffusion process that ends in N(mu, Sigma) instead of N(0, I).

Paper: Shifted Diffusion for Text-to-image Generation (CVPR 2023, arXiv 2211.15388), section 3;
method eqs. 1-4 and 7. With mu = 0 and Sigma = I it is DDPM (arXiv 2006.11239), the baseline.

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
from models.priors.config import ScheduleSettings
from models.priors.schedule import alpha_bars

Times = Int[Tensor, "batch"]
Embeddings = Float[Tensor, "batch embed"]


@dataclass(frozen=True)
class Moments:
    """Mean and Sigma^(1/2) of the Gaussian that each sample's process ends in."""

    mean: Embeddings
    std: Embeddings


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

    def ddim(self, z_t: Embeddings, z_0: Embeddings, t: Times, s: Times, gaussian: Moments) -> Embeddings:
        """Return the deterministic DDIM step (arXiv 2010.02502, eq. 12, no noise) from t to s < t.

        It is taken on u = Sigma^(-1/2) (z - mu), in which the process is ordinary DDPM.
        """
        u_t, u_0 = ((z - gaussian.mean) / gaussian.std for z in (z_t, z_0))
        noise = (u_t - self.abar(t, z_t).sqrt() * u_0) / self.one_minus_abar(t, z_t).sqrt()
        u_s = self.abar(s, z_t).sqrt() * u_0 + self.one_minus_abar(s, z_t).sqrt() * noise
        return gaussian.mean + gaussian.std * u_s

    def loss(self, z_0: Embeddings, predicted: Embeddings, t: Times) -> Float[Tensor, "batch"]:
        """Return w_t |z_0 - z0_hat|^2 / d with w_t = 1 / (1 + SNR_t) = 1 - abar_t (method eq. 7)."""
        weight = self.one_minus_abar(t, z_0).squeeze(1)
        return weight * (z_0 - predicted).square().mean(-1)

    def last_time(self, batch: int) -> Times:
        """Return t = T for every sample."""
        return torch.full((batch,), self.settings.num_timesteps, device=self.alpha_bar.device)
