"""Noise schedules.

Papers: Denoising Diffusion Probabilistic Models (arXiv 2006.11239), section 2, for linear;
Improved DDPM (arXiv 2102.09672), eq. 17, for cosine.

Symbols: t = 1 ... T; alpha_t = 1 - beta_t; abar_t = product of alpha_1 ... alpha_t; abar_0 = 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.priors.spec import ScheduleSettings

_COSINE_OFFSET = 0.008
_COSINE_MAX_BETA = 0.999


def alpha_bars(settings: ScheduleSettings) -> Float[Tensor, "timesteps_and_zero"]:
    """Return abar_t for t = 0 ... T, float64: [T + 1]."""
    t = torch.arange(settings.num_timesteps + 1, dtype=torch.float64)
    if settings.kind == "linear":
        beta = torch.linspace(settings.beta_first, settings.beta_last, settings.num_timesteps, dtype=torch.float64)
    else:
        angle = (t / settings.num_timesteps + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2
        f = angle.cos().square()  # f(t) = cos^2((t/T + s)/(1 + s) pi/2)
        beta = (1 - f[1:] / f[:-1]).clamp_max(_COSINE_MAX_BETA)
    return nn.functional.pad((1 - beta).cumprod(0), (1, 0), value=1.0)


def respaced_timesteps(num_timesteps: int, num_steps: int) -> list[int]:
    """Return the times visited by a sampler of num_steps steps, from T down to 0: num_steps + 1 of them.

    Raises:
        ValueError: the number of steps is not in 1 ... T.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(
            f"prior sampling: {num_steps} steps were asked for; allowed are 1 to {num_timesteps}, "
            "the number of time steps that the prior was trained with"
        )
    return [round(num_timesteps * i / num_steps) for i in range(num_steps, -1, -1)]
