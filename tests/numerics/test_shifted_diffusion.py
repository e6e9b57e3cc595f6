"""Shifted diffusion against closed forms: Monte Carlo, Bayes, DDPM, published schedules."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.diffusion.processes import Ddpm, Gaussian
from models.diffusion.schedules import alpha_bars, respaced_timesteps
from models.diffusion.spec import ProcessConfig, ScheduleSpec
from models.diffusion.targets import noise_from_target
from models.gaussians.bank import GaussianBank

T = 20
SHORT = ScheduleSpec(num_timesteps=T, beta_first=0.0004, beta_last=0.018)  # times 1000 / T: 0.02 to 0.9
LONG = ScheduleSpec()


def make_process(schedule: ScheduleSpec) -> Ddpm:
    return Ddpm(ProcessConfig(path="ddpm"), alpha_bars(schedule))


def diffuse_step(process: Ddpm, z: Tensor, t: Tensor, gaussian: Gaussian, noise: Tensor) -> Tensor:
    """Sample q(z_t | z_{t-1}) = N(sqrt(alpha_t) z_{t-1} + (1 - sqrt(alpha_t)) mu, beta_t Sigma) (method eq. 1)."""
    a, b = (value[:, None].sqrt() for value in process.transition(t, t - 1))
    return a * z + (1 - a) * gaussian.mean + b * gaussian.std * noise


def times(value: int, batch: int) -> Tensor:
    return torch.full((batch,), value)


def make_gaussian(batch: int, dim: int = 3) -> Gaussian:
    generator = torch.Generator().manual_seed(7)
    mean = torch.randn(dim, generator=generator, dtype=torch.float64) * 2 + 1
    std = torch.rand(dim, generator=generator, dtype=torch.float64) + 0.5
    return Gaussian(mean.expand(batch, dim), std.expand(batch, dim))


def test_many_single_steps_have_the_moments_of_the_direct_jump() -> None:
    """Method eq. 2 by Monte Carlo of eq. 1."""
    batch = 200_000
    process, gaussian = make_process(SHORT), make_gaussian(batch)
    generator = torch.Generator().manual_seed(0)
    z_0 = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64).expand(batch, 3)
    z = z_0
    for t in range(1, T + 1):
        noise = torch.randn(z.shape, generator=generator, dtype=torch.float64)
        z = diffuse_step(process, z, times(t, batch), gaussian, noise)
    zero = torch.zeros_like(z_0)
    mean = process.diffuse(z_0, times(T, batch), gaussian, zero)[0]
    std = process.diffuse(z_0, times(T, batch), gaussian, zero + 1)[0] - mean
    standard_error = std / batch**0.5
    assert ((z.mean(0) - mean).abs() < 4 * standard_error).all()
    torch.testing.assert_close(z.std(0), std, rtol=0.01, atol=0)


@pytest.mark.parametrize(("t", "s"), [(1, 0), (7, 6), (20, 19), (20, 3), (12, 0)])
def test_posterior_is_that_of_bayes(t: int, s: int) -> None:
    """Method eq. 3 against exact conditioning: z_s given z_0 is a Gaussian, and z_t is a noisy look at z_s."""
    process, gaussian = make_process(SHORT), make_gaussian(1)
    z_0, z_t = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    abar = process.alpha_bar
    a = abar[t] / abar[s]
    mu, covariance = gaussian.mean, gaussian.std.square()
    prior_mean = abar[s].sqrt() * z_0 + (1 - abar[s].sqrt()) * mu
    prior_variance = (1 - abar[s]) * covariance
    seen_mean = a.sqrt() * prior_mean + (1 - a.sqrt()) * mu
    seen_variance = a * prior_variance + (1 - a) * covariance
    gain = a.sqrt() * prior_variance / seen_variance
    mean, std = process.posterior(z_t, z_0, times(t, 1), times(s, 1), gaussian)
    torch.testing.assert_close(mean, prior_mean + gain * (z_t - seen_mean), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(std.square(), (1 - gain * a.sqrt()) * prior_variance, rtol=1e-9, atol=1e-9)


def test_whitening_turns_it_into_ordinary_ddpm() -> None:
    process, gaussian = make_process(LONG), make_gaussian(4)
    plain = Gaussian(torch.zeros(4, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64))

    def whiten(z: Tensor) -> Tensor:
        return (z - gaussian.mean) / gaussian.std

    z_0, z, noise = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t, s = torch.tensor([1, 10, 500, 1000]), torch.tensor([0, 4, 400, 0])
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
    jumped = process.diffuse(z_0, t, gaussian, noise)
    close(whiten(jumped), process.diffuse(whiten(z_0), t, plain, noise))
    stepped = diffuse_step(process, z_0, t, gaussian, noise)
    close(whiten(stepped), diffuse_step(process, whiten(z_0), t, plain, noise))
    mean, std = process.posterior(z, z_0, t, s, gaussian)
    plain_mean, plain_std = process.posterior(whiten(z), whiten(z_0), t, s, plain)
    close(whiten(mean), plain_mean)
    close(std / gaussian.std, plain_std)
    for eta in (0.0, 0.3, 1.0):
        eps = noise_from_target(process, "sample", z_0, z, t, gaussian=gaussian)
        mean, std = process.ddim(z_0, eps, t, s, gaussian, eta=eta)
        plain_mean, plain_std = process.ddim(whiten(z_0), eps, t, s, plain, eta=eta)
        close(whiten(mean), plain_mean)
        close(std / gaussian.std, plain_std)


def test_the_standard_bank_gives_the_published_ddpm() -> None:
    """With mu = 0 and Sigma = I: q(z_t | z_0) of DDPM eq. 4 and its posterior, eqs. 6 and 7."""
    process = make_process(LONG)
    mean, std = GaussianBank.standard(5).moments(torch.zeros(3, dtype=torch.long))
    standard = Gaussian(mean.double(), std.double())
    z_0, z_t, noise = torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = torch.tensor([2, 300, 1000])
    abar, before = (alpha_bars(LONG)[time][:, None] for time in (t, t - 1))
    alpha = abar / before
    torch.testing.assert_close(process.diffuse(z_0, t, standard, noise), abar.sqrt() * z_0 + (1 - abar).sqrt() * noise)
    mean, std = process.posterior(z_t, z_0, t, t - 1, standard)
    expected = before.sqrt() * (1 - alpha) / (1 - abar) * z_0 + alpha.sqrt() * (1 - before) / (1 - abar) * z_t
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-9)
    variance = (1 - before) / (1 - abar) * (1 - alpha)
    torch.testing.assert_close(std.square(), variance.expand_as(std), rtol=1e-9, atol=1e-12)


def test_schedules() -> None:
    beta = 1 - alpha_bars(LONG)[1:] / alpha_bars(LONG)[:-1]
    assert beta[0] == pytest.approx(1e-4)
    assert beta[-1] == pytest.approx(0.02)
    for kind in ("linear", "cosine"):
        abar = alpha_bars(ScheduleSpec(kind=kind))
        assert abar[0] == 1
        assert (abar.diff() < 0).all()
        assert 0 < abar[-1] < 1e-3


class LinspaceOnTheCpu(TorchFunctionMode):
    """What remains of a library that keeps torch.linspace off the "meta" device, as transformers does while loading."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}) | ({"device": "cpu"} if func is torch.linspace else {}))


def test_a_schedule_mixes_no_devices() -> None:
    for kind in ("linear", "cosine"):
        with torch.device("meta"), LinspaceOnTheCpu():
            assert alpha_bars(ScheduleSpec(kind=kind)).shape == (1001,)


def test_respaced_times_run_from_the_last_to_zero() -> None:
    assert respaced_timesteps(1000, 1) == [1000, 0]
    assert respaced_timesteps(1000, 4) == [1000, 750, 500, 250, 0]
    assert respaced_timesteps(10, 10) == list(range(10, -1, -1))
    for wrong in (0, 1001):
        with pytest.raises(ValueError, match=r"allowed are 1 to 1000"):
            respaced_timesteps(1000, wrong)


def test_the_schedule_keeps_its_digits_in_half_precision() -> None:
    process = make_process(LONG).bfloat16()
    assert process.alpha_bar.dtype == torch.float64
    bank = GaussianBank(torch.full((1, 2), 1.2345678), torch.ones(1, 2), kappa=5.0).bfloat16()
    assert bank.means.dtype == torch.float32
    assert bank.means[0, 0] == torch.tensor(1.2345678)
