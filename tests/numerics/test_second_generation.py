"""What a prior's settings must not silently break: closed forms of the whole trajectory around a perfect network."""

import itertools

import pytest
import torch
from torch import Tensor

from models.diffusion.processes import Ddpm, Gaussian
from models.diffusion.samplers import Estimate, sample
from models.diffusion.schedules import alpha_bars
from models.diffusion.spec import ProcessConfig, ScheduleSpec
from models.gaussians.bank import GaussianBank
from models.gaussians.kmeans import STD_FLOOR
from models.normalization import Normalization
from models.priors.diffusion.model import DiffusionPrior, make_bank, rms_std
from models.priors.diffusion.spec import GaussianPriorSpec, ShiftedPriorSpec
from models.priors.spec import PriorSampling

MEAN, STD = 3.0, 0.4
ROWS = 20_000


def generated(schedule: ScheduleSpec, sampling: PriorSampling, mu: float = 0.0, sigma: float = 1.0) -> Tensor:
    """Sample from N(MEAN, STD^2) with the perfect network, from the Gaussian N(mu, sigma^2)."""
    process = Ddpm(ProcessConfig(path="ddpm"), alpha_bars(schedule))
    gaussian = Gaussian(torch.full((ROWS, 1), mu).double(), torch.full((ROWS, 1), sigma).double())
    generator = torch.Generator().manual_seed(0)

    def best(x_t: Tensor, t: Tensor) -> Estimate:
        signal, noise = process.variances(t, x_t)
        gain = signal.sqrt() * STD**2 / (signal * STD**2 + noise * sigma**2)
        return Estimate(MEAN + gain * (x_t - signal.sqrt() * MEAN - (1 - signal.sqrt()) * mu))

    def noise() -> Tensor:
        return torch.randn(ROWS, 1, generator=generator, dtype=torch.float64)

    return sample(process, best, noise, process.steps(sampling.num_steps), solver=sampling, gaussian=gaussian)


@pytest.mark.parametrize("num_timesteps", [20, 100, 1000, 4000])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_any_number_of_time_steps_ends_in_the_gaussian(num_timesteps: int, sampler: str) -> None:
    """Five standard errors, and 5 % for the start from N(mu, Sigma) and the solver's own steps."""
    schedule = ScheduleSpec(num_timesteps=num_timesteps)
    assert alpha_bars(schedule)[-1] == pytest.approx(schedule.last_alpha_bar, rel=1e-9)
    found = generated(schedule, PriorSampling(num_steps=min(num_timesteps, 100), sampler=sampler))  # type: ignore[arg-type]
    assert float(found.mean()) == pytest.approx(MEAN, abs=5 * STD / ROWS**0.5 + 0.05 * MEAN)


@pytest.mark.parametrize("settings", [{"num_timesteps": 1}, {"beta_last": 2e-3}], ids=str)
def test_a_schedule_that_keeps_too_much_of_the_data_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"leaves abar_T = .* of the data: expected at most 0.001"):
        ScheduleSpec(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("found", [0, -1, 100_001, 2**31])
def test_a_number_of_time_steps_without_end_is_refused(found: int) -> None:
    with pytest.raises(ValueError, match=f"num_timesteps: found {found}: expected 1 to 100000"):
        ScheduleSpec(num_timesteps=found)


def sampled_fraction(ratio: float, num_steps: int, variance: str) -> float:
    """Return the fraction of the conditional variance that the samples of a perfect network have: an exact recursion.

    u_0 has the standard deviation ``ratio``, that of the data over that of the noise; u_T ~ N(0, 1).
    """
    abar, found = alpha_bars(ScheduleSpec()), 1.0
    times = [round(1000 * i / num_steps) for i in range(num_steps, -1, -1)]
    for t, s in itertools.pairwise(times):
        now, after = float(abar[t]), float(abar[s])
        a = now / after
        gain = now**0.5 * ratio**2 / (now * ratio**2 + 1 - now)
        factor = (1 - a) * after**0.5 / (1 - now) * gain + a**0.5 * (1 - after) / (1 - now)
        added = (1 - a) * (1 - after) / (1 - now) if variance == "posterior" else (1 - a) * (s > 0)
        found = factor**2 * found + added
    return found / ratio**2


@pytest.mark.parametrize(("ratio", "posterior", "large"), [(1.0, 0.88, 1.0), (0.35, 0.78, 1.06), (0.1, 0.53, 1.08)])
def test_the_default_variance_is_that_of_the_data(ratio: float, posterior: float, large: float) -> None:
    """The table of docs/prior.md (64 steps, linear schedule); the sampler agrees with it, by Monte Carlo."""
    assert PriorSampling().step_variance == "large"
    assert sampled_fraction(ratio, 64, "posterior") == pytest.approx(posterior, abs=0.01)
    assert sampled_fraction(ratio, 64, "large") == pytest.approx(large, abs=0.01)
    found = generated(ScheduleSpec(), PriorSampling(), sigma=STD / ratio)
    assert float(found.var()) / STD**2 == pytest.approx(large, abs=0.01 + 5 * (2 / ROWS) ** 0.5)


@pytest.mark.parametrize(("floor", "least", "most"), [(1e-4, 0.0, 0.05), (STD_FLOOR, 0.98, 1.02)])
def test_a_narrow_gaussian_still_follows_the_caption(floor: float, least: float, most: float) -> None:
    """Which part of the way from mu to the true mean sampling goes, with the old floor and with the present one."""
    found = generated(ScheduleSpec(), PriorSampling(), mu=MEAN - 2 * STD, sigma=floor * STD)
    assert least <= float(found.mean() - (MEAN - 2 * STD)) / (2 * STD) <= most


def test_noise_of_one_scale_is_equally_strong_whatever_the_number_of_gaussians() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(500, 6, generator=generator) * torch.tensor([9.0, 1, 1, 1, 1, 1]) + 2
    scale = 2.0 * rms_std(images)
    for count in (1, 4, 50):
        means = images[:count]
        stds = (images.std(0) / count**0.5).expand(count, -1) * (1 + torch.rand(count, 1, generator=generator))
        bank = make_bank(ShiftedPriorSpec(6, count, noise_scale=2.0), images, images, (means, stds))
        _, _, std = bank(images)
        assert float(std.square().mean().sqrt()) == pytest.approx(scale, rel=1e-4)
    baseline = make_bank(GaussianPriorSpec(6, noise_scale=2.0), images, images, None)
    assert float(baseline(images)[2].square().mean().sqrt()) == pytest.approx(scale, rel=1e-4)


def test_what_cannot_be_computed_is_a_sentence() -> None:
    bank = GaussianBank(torch.eye(2), torch.ones(2, 2), kappa=1.0)
    for wrong in (float("nan"), float("inf"), 1e30):
        with pytest.raises(ValueError, match="1 of 2 text embeddings hold numbers that are not finite, or too large"):
            bank.select(torch.tensor([[1.0, 2.0], [wrong, 0.0]]))
    with pytest.raises(ValueError, match="training embeddings: found none"):
        Normalization(2).measure(torch.zeros(0, 2))
    for field in ({"kappa": 1e39}, {"kappa": 1e-60}, {"kappa": float("nan")}, {"noise_scale": 1e-9}):
        with pytest.raises(
            ValueError, match=r"ShiftedPriorSpec\.(kappa|noise_scale): found .*: expected 0\.\d+ to 100"
        ):
            ShiftedPriorSpec(2, **field)  # type: ignore[arg-type]
    narrow = GaussianBank(torch.zeros(1, 2), torch.tensor([[1e-3, 1.0]]), kappa=1.0)
    prior = DiffusionPrior(ShiftedPriorSpec(2, target="velocity"), narrow)
    with pytest.raises(ValueError, match=r"target velocity: found a Gaussian whose std is 0.001 of the training"):
        prior.measure(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.eye(2))
