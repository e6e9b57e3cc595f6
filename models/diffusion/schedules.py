"""Noise schedules, and the time steps that a sampler visits.

Papers: Denoising Diffusion Probabilistic Models (arXiv 2006.11239), section 2, for linear;
Improved DDPM (arXiv 2102.09672), eq. 17, for cosine; Common diffusion noise schedules and sample steps are flawed
(arXiv 2305.08891), for a terminal SNR of zero.

Symbols: t = 1 ... T; alpha_t = 1 - beta_t; abar_t = product of alpha_1 ... alpha_t; abar_0 = 1.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor, nn

from models.diffusion.spec import ScheduleKind, ScheduleSpec

NUM_TIMESTEPS: Final = 1000
DIFFUSERS_SCHEDULES: Final[Mapping[ScheduleKind, str]] = {"cosine": "squaredcos_cap_v2", "linear": "linear"}


def alpha_bars(schedule: ScheduleSpec, *, zero_terminal_snr: bool = False) -> Float[Tensor, "timesteps_and_zero"]:
    """Return abar_t for t = 0 ... T, float64: [T + 1]; for a terminal SNR of zero sqrt(abar) is shifted and scaled."""
    abar = (1 - torch.tensor(schedule.betas(), dtype=torch.float64)).cumprod(0)
    if zero_terminal_snr:
        root = abar.sqrt()
        abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    return nn.functional.pad(abar, (1, 0), value=1.0)


def diffusers_alpha_bars(
    settings: Mapping[str, Any], *, zero_terminal_snr: bool = False
) -> Float[Tensor, "timesteps_and_zero"]:
    """Return abar_t for t = 0 ... 1000 as diffusers has it, float32; ``settings`` are a scheduler's own (beta_...)."""
    scheduler = DDIMScheduler(num_train_timesteps=NUM_TIMESTEPS, rescale_betas_zero_snr=zero_terminal_snr, **settings)
    return nn.functional.pad(scheduler.alphas_cumprod, (1, 0), value=1.0)


def respaced_timesteps(num_timesteps: int, num_steps: int) -> list[int]:
    """Return the times visited by a sampler of num_steps steps, from T down to 0: num_steps + 1 of them."""
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(
            f"prior sampling: {num_steps} steps were asked for; allowed are 1 to {num_timesteps}, "
            "the number of time steps that the prior was trained with"
        )
    return [round(num_timesteps * i / num_steps) for i in range(num_steps, -1, -1)]


def diffusers_steps(num_timesteps: int, num_steps: int) -> list[tuple[int, int]]:
    """Return each step's first and last time as diffusers' DDIM has them: all are floor(T / num_steps) long."""
    times = respaced_timesteps(num_timesteps, num_steps)[:-1]
    return [(t, t - num_timesteps // num_steps) for t in times]


def flow_steps(num_steps: int) -> list[tuple[float, float]]:
    """Return each step's first and last time on the path flow, in equal steps from 1 down to 0."""
    return list(itertools.pairwise([*torch.linspace(1.0, 1.0 / num_steps, num_steps, device="cpu").tolist(), 0.0]))


Number = TypeVar("Number", float, Tensor)


def shifted_times(t: Number, shift: float) -> Number:
    """Return shift t / (1 + (shift - 1) t) for times of the path flow (arXiv 2403.03206, eq. 23)."""
    return t if shift == 1.0 else shift * t / (1 + (shift - 1) * t)


def dimension_shift(num_dims: int, base_dims: int) -> float:
    """Return sqrt(m / n), the shift for data of m dimensions where n need none (RAE, arXiv 2510.11690; n = 4096)."""
    return math.sqrt(num_dims / base_dims)


def logit_normal_times(uniform: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return sigmoid(n), n ~ N(0, 1), for numbers uniform in [0, 1) (arXiv 2403.03206, eq. 19)."""
    times: Tensor = torch.special.ndtri(uniform.double()).sigmoid()
    return times
