"""Samplers with denoisers known in closed form: they must give the data's distribution back."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.diffusion.processes import Ddpm, Gaussian
from models.diffusion.samplers import Estimate, Estimator, sample
from models.diffusion.schedules import alpha_bars, respaced_timesteps
from models.diffusion.spec import ProcessConfig, ScheduleKind, ScheduleSpec
from models.diffusion.targets import noise_from_target
from models.priors.spec import PriorSampling

SAMPLINGS = {
    "ancestral": PriorSampling(num_steps=120, variance="posterior"),
    "ancestral_large": PriorSampling(num_steps=120),
    "ddim": PriorSampling(num_steps=120, sampler="ddim"),
    "ddim_half": PriorSampling(num_steps=120, sampler="ddim", eta=0.5),
    "dpm_solver": PriorSampling(num_steps=40, sampler="dpm_solver"),
}
MANY = 8_000


def make_process(kind: ScheduleKind = "linear") -> Ddpm:
    return Ddpm(ProcessConfig(path="ddpm"), alpha_bars(ScheduleSpec(kind=kind)))


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Mixture:
    """Gaussians with full covariances in two dimensions, mixed by weights; the data of the toys."""

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights, self.means, self.covariances = weights, means, covariances

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        second = self.covariances + self.means[:, :, None] * self.means[:, None]
        return (self.weights[:, None, None] * second).sum(0) - self.mean[:, None] * self.mean

    def denoiser(self, process: Ddpm, gaussian: Gaussian) -> Estimator:
        """Return E[z_0 | z_t]: the mean over components of their linear estimates, weighed by how likely they are."""

        def denoise(z_t: Tensor, t: Tensor) -> Estimate:
            abar = process.alpha_bar[t[0]]
            estimates, likelihoods = [], []
            for weight, m, covariance in zip(self.weights, self.means, self.covariances, strict=True):
                seen = abar * covariance + (1 - abar) * torch.diag(gaussian.std[0].square())
                rest = z_t - abar.sqrt() * m - (1 - abar.sqrt()) * gaussian.mean[0]
                estimates.append(m + rest @ torch.linalg.solve(seen, abar.sqrt() * covariance))
                distance = (rest @ torch.linalg.inv(seen) * rest).sum(1)
                likelihoods.append(weight.log() - 0.5 * (torch.logdet(seen) + distance))
            fractions = torch.stack(likelihoods).softmax(0)
            return Estimate((fractions[:, :, None] * torch.stack(estimates)).sum(0))

        return denoise


TWO = Mixture(
    tensor(0.3, 0.7),
    tensor([2.0, -1.0], [-1.0, 1.5]),
    tensor([[0.5, 0.3], [0.3, 0.4]], [[0.2, -0.1], [-0.1, 0.6]]),
)


def noise_of(batch: int, seed: int = 0) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(batch, 2, generator=generator, dtype=torch.float64)


def make_gaussian(batch: int, mean: Tensor, std: Tensor) -> Gaussian:
    return Gaussian(mean.expand(batch, 2), std.expand(batch, 2))


def generate(data: Mixture, gaussian: Gaussian, sampling: PriorSampling, kind: ScheduleKind = "linear") -> Tensor:
    process = make_process(kind)
    noise = noise_of(gaussian.mean.shape[0])
    steps = process.steps(sampling.num_steps)
    return sample(process, data.denoiser(process, gaussian), noise, steps, solver=sampling, gaussian=gaussian)


def assert_moments(found: Tensor, data: Mixture, *, bias: float) -> None:
    """Compare mean and covariance: five standard errors, and a solver's own error as a fraction of the std."""
    variance = data.covariance.diagonal()
    error = (found.mean(0) - data.mean).abs() / variance.sqrt()
    assert (error < 5 / len(found) ** 0.5 + bias).all(), error
    scale = (variance[:, None] * variance).sqrt()
    error = (torch.cov(found.T) - data.covariance).abs() / scale
    assert (error < 5 * (2 / len(found)) ** 0.5 + bias).all(), error


@pytest.mark.parametrize("name", SAMPLINGS)
def test_sampling_with_the_best_denoiser_recovers_two_gaussians(name: str) -> None:
    gaussian = make_gaussian(MANY, tensor(1.0, 0.5), tensor(1.5, 0.8))
    found = generate(TWO, gaussian, SAMPLINGS[name])
    assert_moments(found, TWO, bias=0.02)
    first = ((found - TWO.means[0]).norm(dim=1) < (found - TWO.means[1]).norm(dim=1)).double().mean()
    assert abs(float(first) - 0.3) < 0.03


@pytest.mark.parametrize("name", ["ancestral", "dpm_solver"])
def test_the_cosine_schedule_recovers_them_too(name: str) -> None:
    gaussian = make_gaussian(MANY, tensor(1.0, 0.5), tensor(1.5, 0.8))
    assert_moments(generate(TWO, gaussian, SAMPLINGS[name], "cosine"), TWO, bias=0.02)


def test_the_baseline_recovers_them_too() -> None:
    standard = make_gaussian(MANY, tensor(0.0, 0.0), tensor(1.0, 1.0))
    assert_moments(generate(TWO, standard, SAMPLINGS["ancestral"]), TWO, bias=0.02)


def times(value: int, batch: int) -> Tensor:
    return torch.full((batch,), value)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_sampler_is_the_ordinary_one_in_whitened_coordinates(name: str) -> None:
    """To 1e-9 in float64; diffusers' solver itself works in float32, whose rounding is all that may differ."""
    sampling = PriorSampling(**{**vars(SAMPLINGS[name]), "num_steps": 20})
    process = make_process()
    steps = process.steps(20)
    gaussian = make_gaussian(50, tensor(3.0, -2.0), tensor(0.4, 2.5))
    standard = make_gaussian(50, tensor(0.0, 0.0), tensor(1.0, 1.0))
    denoise = TWO.denoiser(process, gaussian)
    raw = sample(process, denoise, noise_of(50), steps, solver=sampling, gaussian=gaussian)

    def denoise_whitened(u_t: Tensor, t: Tensor) -> Estimate:
        return Estimate(gaussian.whiten(denoise(gaussian.colour(u_t), t).x_0))

    whitened = sample(process, denoise_whitened, noise_of(50), steps, solver=sampling, gaussian=standard)
    tolerance = 1e-5 if name == "dpm_solver" else 1e-9
    torch.testing.assert_close(gaussian.whiten(raw), whitened, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("num_steps", [1, 2, 10, 40, 1000])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_solver_takes_the_steps_of_its_paper(num_steps: int, kind: ScheduleKind) -> None:
    """DPM-Solver++ (2M), arXiv 2211.01095, algorithm 2, written out in float64; the last step is of first order."""
    process, visited = make_process(kind), respaced_timesteps(1000, num_steps)
    gaussian = make_gaussian(30, tensor(0.0, 0.0), tensor(1.0, 1.0))
    denoise = TWO.denoiser(process, gaussian)
    sampling = PriorSampling(num_steps=num_steps, sampler="dpm_solver")
    found = sample(process, denoise, noise_of(30), process.steps(num_steps), solver=sampling, gaussian=gaussian)
    a, b = process.alpha_bar.sqrt(), (1 - process.alpha_bar).sqrt()
    log_ratio = a.log() - b.log()  # lambda_t; infinite at t = 0
    u, before, last_h = noise_of(30)(), None, tensor(0.0)
    for now, after in itertools.pairwise(visited):
        x = denoise(u, times(now, 30)).x_0
        h = log_ratio[after] - log_ratio[now]
        r = last_h / h
        wanted = x if before is None or after == 0 else (1 + 1 / (2 * r)) * x - before / (2 * r)
        u = b[after] / b[now] * u - a[after] * torch.expm1(-h) * wanted
        before, last_h = x, h
    torch.testing.assert_close(found, u, rtol=2e-3, atol=2e-3)


def test_ddim_with_full_eta_is_ancestral() -> None:
    process = make_process()
    gaussian = make_gaussian(4, tensor(3.0, -2.0), tensor(0.4, 2.5))
    z_0, z_t = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t, s = torch.tensor([1, 2, 500, 1000]), torch.tensor([0, 1, 400, 999])
    eps = noise_from_target(process, "sample", z_0, z_t, t, gaussian=gaussian)
    for one, other in zip(
        process.ddim(z_0, eps, t, s, gaussian, eta=1.0), process.ancestral(z_t, z_0, t, s, gaussian), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_large_variance_is_beta() -> None:
    process = make_process()
    gaussian = make_gaussian(3, tensor(3.0, -2.0), tensor(0.4, 2.5))
    z = torch.zeros(3, 2, dtype=torch.float64)
    t, s = torch.tensor([1, 300, 1000]), torch.tensor([0, 299, 900])
    mean, std = process.ancestral(z, z, t, s, gaussian, variance="large")
    beta = 1 - process.alpha_bar[t] / process.alpha_bar[s]
    expected = beta[:, None] * gaussian.std.square()
    expected[0] = 0  # nothing is added to z_0
    torch.testing.assert_close(std.square(), expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(mean, process.posterior(z, z, t, s, gaussian)[0])


@pytest.mark.parametrize("name", SAMPLINGS)
def test_noise_is_generated_for_the_start_and_for_noisy_steps_alone(name: str) -> None:
    sampling = PriorSampling(**{**vars(SAMPLINGS[name]), "num_steps": 4})
    calls = []
    source = noise_of(3)

    def noise() -> Tensor:
        calls.append(1)
        return source()

    process, gaussian = make_process(), make_gaussian(3, tensor(0.0, 0.0), tensor(1.0, 1.0))
    sample(process, lambda z, t: Estimate(z), noise, process.steps(4), solver=sampling, gaussian=gaussian)
    assert len(calls) == (1 if name in ("ddim", "dpm_solver") else 4)
