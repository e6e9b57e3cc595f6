"""Samplers of shifted diffusion: from z_T ~ N(mu, Sigma) (method eq. 4) down to z_0, with any denoiser.

Papers: DDPM (arXiv 2006.11239) for ancestral steps; DDIM (arXiv 2010.02502); DPM-Solver++ (arXiv 2211.01095), the
second-order multistep solver 2M.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.diffusion.shifted import Embeddings, Moments, ShiftedDiffusion, Times
from models.priors.spec import PriorSampling

Denoiser = Callable[[Embeddings, Times], Embeddings]
"""z_t and t [batch] to the prediction of z_0."""

NoiseSource = Callable[[], Embeddings]
"""Each call gives new standard normal noise [batch, embed]."""


def sample_embeddings(
    process: ShiftedDiffusion,
    gaussian: Moments,
    denoise: Denoiser,
    noise: NoiseSource,
    times: Sequence[int],
    sampling: PriorSampling,
) -> Embeddings:
    """Return samples of z_0; ``times`` are those to visit, from T down to 0.

    Noise is drawn once for z_T and once for each step that adds some, never for the step to 0.
    """
    z_T = gaussian.colour(noise())
    if sampling.sampler == "dpm_solver":
        return _dpm_solver(process, gaussian, denoise, z_T, times)
    z = z_T
    for now, after in itertools.pairwise(times):
        t, s = _filled(now, z), _filled(after, z)
        z_0 = denoise(z, t)
        if sampling.sampler == "ddim":
            z, std = process.ddim(z, z_0, t, s, gaussian, sampling.eta)
            noisy = sampling.eta > 0 and after > 0
        else:
            z, std = process.ancestral(z, z_0, t, s, gaussian, sampling.variance)
            noisy = after > 0
        if noisy:
            z = z + std * noise()
    return z


def _dpm_solver(
    process: ShiftedDiffusion, gaussian: Moments, denoise: Denoiser, z_T: Embeddings, times: Sequence[int]
) -> Embeddings:
    """Solve the probability flow of u = Sigma^(-1/2) (z - mu), which is that of ordinary DDPM, without noise.

    The solver knows the time t as t - 1, and its own last step goes to sigma = 0, our time 0. It works in float32.
    """
    from diffusers import DPMSolverMultistepScheduler

    betas = 1 - process.alpha_bar[1:] / process.alpha_bar[:-1]
    solver = DPMSolverMultistepScheduler(
        num_train_timesteps=len(betas),
        trained_betas=betas.tolist(),
        solver_order=2,
        algorithm_type="dpmsolver++",
        prediction_type="sample",
        final_sigmas_type="zero",
    )
    solver.set_timesteps(timesteps=[t - 1 for t in times[:-1]], device=z_T.device)
    u = gaussian.whiten(z_T)
    for now, index in zip(times[:-1], solver.timesteps, strict=True):
        z_0 = denoise(gaussian.colour(u), _filled(now, u))
        u = solver.step(gaussian.whiten(z_0), index, u, return_dict=False)[0]
    return gaussian.colour(u)


def _filled(time: int, like: Tensor) -> Times:
    return torch.full((len(like),), time, device=like.device)
