"""Samplers: from x_T ~ N(mu, Sigma) (method eq. 4) down to x_0, with any network.

Papers: DDPM (arXiv 2006.11239) for ancestral steps; DDIM (arXiv 2010.02502); DPM-Solver++ (arXiv 2211.01095), the
second-order multistep solver 2M; SDEdit (arXiv 2108.01073) for starting from an image.

DPM-Solver++ is diffusers'. The steps of one line are ours: diffusers' know no eta per Gaussian, no double precision and
no other times than their own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.diffusion.guidance import Predictor, threshold
from models.diffusion.processes import STANDARD, Ddpm, Gaussian, Process, Samples, Steps, Times, column
from models.diffusion.schedules import diffusers_steps
from models.diffusion.spec import SolverSpec
from models.diffusion.targets import noise_from_target, sample_from_target

NoiseSource = Callable[[], Tensor]
"""Each call gives new standard normal noise of the samples' shape."""


@dataclass(frozen=True)
class Estimate:
    """What a network makes of x_t."""

    x_0: Samples
    noise: Samples | None = None
    """eps; none: the one that x_0 implies."""


Estimator = Callable[[Samples, Times], Estimate]
OnStep = Callable[[int, float, Samples, Samples], None]
"""Takes the number of a step, from 0, the time at its beginning, x_t there, and the x_0 that is predicted of it."""

_SMALLEST_ALPHA_BAR = 2**-24  # what diffusers' solvers take for a terminal SNR of zero


@dataclass(frozen=True)
class InitImage:
    """An image to begin from, noised to a strength, instead of noise alone."""

    x_0: Samples
    strength: float
    """0: the image as it is; 1: noise alone; between them it is rounded up to a whole step of the solver."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"InitImage.strength: found {self.strength!r}: expected 0 to 1")

    def skipped(self, num_steps: int) -> int:
        """Return how many of the solver's steps lie before the start."""
        return num_steps - math.ceil(round(self.strength * num_steps, 6))


def enter(
    noise: Samples, start: InitImage | None, num_steps: int, mixed: Callable[[Samples, int], Samples]
) -> tuple[Samples, int]:
    """Return x_t where a solver begins, and the number of its first step; ``mixed`` noises an image for a step.

    At strength 1 that is the noise alone, though the first step of most schedules would leave a trace of the image.
    """
    first = 0 if start is None else start.skipped(num_steps)
    if start is None or first == 0:
        return noise, 0
    return (start.x_0 if first == num_steps else mixed(start.x_0, first)), first


def sample(
    process: Process,
    estimate: Estimator,
    noise: NoiseSource,
    steps: Steps,
    *,
    solver: SolverSpec,
    gaussian: Gaussian = STANDARD,
    start: InitImage | None = None,
    on_step: OnStep | None = None,
) -> Samples:
    """Return samples of x_0.

    Noise is sampled once for x_T and once for each step that adds some, never for the step to 0. ``on_step`` is called
    once at each step, also where its solver asks the network twice.
    """
    sampler = solver.sampler or "ancestral"
    if sampler in ("euler", "heun") and process.spec.path != "flow":
        raise ValueError(f"sampler: found {sampler} on the path ddpm: expected ancestral, ddim or dpm_solver there")
    first_noise = noise()

    def mixed(x_0: Samples, step: int) -> Samples:
        return process.diffuse(x_0, _filled(steps[step][0], x_0), gaussian, first_noise)

    x_t, first = enter(gaussian.colour(first_noise), start, len(steps), mixed)
    multistep = _DpmSolver(process, gaussian, steps, x_t) if sampler == "dpm_solver" else None
    for number, (now, after) in enumerate(steps[first:], first):
        t, s = _filled(now, x_t), _filled(after, x_t)
        found = estimate(x_t, t)
        if on_step is not None:
            on_step(number, now, x_t, found.x_0)
        std: Tensor | None = None
        if multistep is not None:
            x_t = multistep.step(found.x_0, now)
        elif sampler in ("euler", "heun"):
            x_t = _flow_step(estimate, x_t, found, t, s, second_order=sampler == "heun" and after > 0)
        elif sampler == "ancestral":
            x_t, std = process.ancestral(x_t, found.x_0, t, s, gaussian, variance=solver.step_variance)
        else:
            eps = found.noise
            eps = noise_from_target(process, "sample", found.x_0, x_t, t, gaussian=gaussian) if eps is None else eps
            x_t, std = process.ddim(found.x_0, eps, t, s, gaussian, eta=solver.eta)
        if std is not None and after > 0 and (sampler == "ancestral" or solver.eta > 0):
            x_t = x_t + std * noise()
    return x_t


def sample_images(
    process: Process,
    predict: Predictor,
    noise: NoiseSource,
    num_steps: int,
    *,
    bounded: bool = True,
    dynamic_threshold: float | None = None,
    start: InitImage | None = None,
    solver: SolverSpec | None = None,
) -> Samples:
    """Return images or latents; ``predict`` takes time steps as diffusers' U-Nets count them.

    ``bounded`` holds predicted images in [-1, 1], for pixels, not for latents: by clipping, or, with a
    ``dynamic_threshold`` p, by :func:`models.diffusion.guidance.threshold`. The noise of a step is then the one that
    the bounded image implies (diffusers' ``use_clipped_model_output``): with that of the prediction, x_t would be no
    mixture of an image and noise. Without a solver the steps are deterministic, by DDIM or Euler's method.
    """
    flow, target = process.spec.path == "flow", process.spec.target

    def estimate(x_t: Samples, t: Times) -> Estimate:
        prediction = predict(x_t, process.timestep(t).to(x_t.dtype))
        x_0 = sample_from_target(process, target, prediction, x_t, t, gaussian=STANDARD)
        if bounded:
            return Estimate(threshold(x_0, dynamic_threshold))
        return Estimate(
            x_0, None if flow else noise_from_target(process, target, prediction, x_t, t, gaussian=STANDARD)
        )

    steps = process.steps(num_steps) if flow else diffusers_steps(process.num_timesteps, num_steps)
    solver = solver or SolverSpec(sampler="euler" if flow else "ddim")
    return sample(process, estimate, noise, steps, solver=solver, start=start)


def _flow_step(
    estimate: Estimator, x_t: Samples, found: Estimate, t: Times, s: Times, *, second_order: bool
) -> Samples:
    """Return x_s by Euler's method, or by Heun's, which asks the network a second time, at the end of the step.

    dx/dt = (x_t - x_0) / t on the path flow (arXiv 2209.03003, eq. 1); Heun's method: arXiv 2206.00364, algorithm 1.
    """
    slope, step = (x_t - found.x_0) / column(t, x_t), column(s - t, x_t)
    x_s: Samples = x_t + step * slope
    if not second_order:
        return x_s
    end = (x_s - estimate(x_s, s).x_0) / column(s, x_t)
    return x_t + step * (slope + end) / 2


class _DpmSolver:
    """Solves the probability flow of u = Sigma^(-1/2) (x - mu), which is the ordinary one, without noise, in float32.

    diffusers knows the time t of ddpm as t - 1; its last step goes to sigma = 0, our time 0.
    """

    def __init__(self, process: Process, gaussian: Gaussian, steps: Steps, x_T: Samples) -> None:
        from diffusers import DPMSolverMultistepScheduler

        self._u = gaussian.whiten(x_T)
        common = {"solver_order": 2, "algorithm_type": "dpmsolver++", "prediction_type": "sample"}
        self._gaussian = gaussian
        if isinstance(process, Ddpm):
            abar = torch.where(process.alpha_bar > 0, process.alpha_bar, _SMALLEST_ALPHA_BAR)
            betas = (1 - abar[1:] / abar[:-1]).tolist()
            self._solver: Any = DPMSolverMultistepScheduler(
                num_train_timesteps=len(betas), trained_betas=betas, final_sigmas_type="zero", **common
            )
            self._solver.set_timesteps(timesteps=[int(t) - 1 for t, _ in steps], device=x_T.device)
        else:
            self._solver = DPMSolverMultistepScheduler(use_flow_sigmas=True, final_sigmas_type="zero", **common)
            self._solver.set_timesteps(len(steps), device=x_T.device)
            self._solver.sigmas = torch.tensor([t for t, _ in steps] + [0.0])
            self._solver.timesteps = torch.arange(len(steps), device=x_T.device)
        self._timesteps = dict(zip((t for t, _ in steps), self._solver.timesteps, strict=True))

    def step(self, x_0: Samples, t: float) -> Samples:
        """Return x_s of the next step, given the prediction of x_0 at its beginning."""
        self._u = self._solver.step(self._gaussian.whiten(x_0), self._timesteps[t], self._u, return_dict=False)[0]
        return self._gaussian.colour(self._u)


def _filled(time: float, like: Tensor) -> Times:
    return torch.full((len(like),), time, device=like.device)
