"""Targets and loss weights against each other, and guidance."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from models.diffusion.guidance import guide
from models.diffusion.loss_weights import denoising_loss, loss_weight
from models.diffusion.processes import STANDARD, Ddpm, Gaussian, make_process
from models.diffusion.schedules import alpha_bars
from models.diffusion.spec import LossWeight, ProcessConfig, ScheduleSpec, Target
from models.diffusion.targets import noise_from_target, output_scale, sample_from_target, true_target
from models.normalization import Normalization

PROCESS = Ddpm(ProcessConfig(path="ddpm"), alpha_bars(ScheduleSpec()))
GAMMA = 5.0
TIMES = torch.tensor([1, 5, 60, 250, 600, 1000])
TARGETS: tuple[Target, ...] = ("sample", "noise", "velocity")
WEIGHTS: tuple[LossWeight, ...] = ("p2", "min_snr", "uniform")


def make_case() -> tuple[Tensor, Tensor, Tensor, Gaussian]:
    """z_0, noise, z_t and the Gaussians of one sample for each time, float64."""
    generator = torch.Generator().manual_seed(0)
    z_0, noise, mean, std = torch.randn(4, len(TIMES), 7, generator=generator, dtype=torch.float64)
    gaussian = Gaussian(mean, std.abs() + 0.1)
    return z_0, noise, PROCESS.diffuse(z_0, TIMES, gaussian, noise), gaussian


@pytest.mark.parametrize("target", TARGETS)
def test_the_true_target_leads_back_to_the_embedding(target: Target) -> None:
    z_0, noise, z_t, gaussian = make_case()
    predicted = true_target(PROCESS, target, z_0, noise, TIMES, gaussian=gaussian)
    found = sample_from_target(PROCESS, target, predicted, z_t, TIMES, gaussian=gaussian)
    torch.testing.assert_close(found, z_0, rtol=1e-9, atol=1e-9)
    eps = noise_from_target(PROCESS, target, predicted, z_t, TIMES, gaussian=gaussian)
    torch.testing.assert_close(eps, noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("target", "weight"), list(itertools.product(TARGETS, WEIGHTS)))
def test_every_loss_is_the_documented_weight_on_the_whitened_embedding(target: Target, weight: LossWeight) -> None:
    """The table of models/diffusion/loss_weights.py: the number in brackets, on the error of u_0."""
    z_0, noise, z_t, gaussian = make_case()
    predicted = true_target(PROCESS, target, z_0, noise, TIMES, gaussian=gaussian)
    predicted = predicted + torch.linspace(-1, 1, 7, dtype=torch.float64)
    error = predicted - true_target(PROCESS, target, z_0, noise, TIMES, gaussian=gaussian)
    wrong = sample_from_target(PROCESS, target, predicted, z_t, TIMES, gaussian=gaussian)
    whitened = error if target == "sample" else gaussian.whiten(wrong) - gaussian.whiten(z_0)
    abar = PROCESS.alpha_bar[TIMES]
    snr = abar / (1 - abar)
    documented = {
        "p2": {"sample": 1 / (1 + snr), "noise": abar, "velocity": torch.ones_like(snr)}[target],
        "min_snr": snr.clamp_max(GAMMA),
        "uniform": {"sample": torch.ones_like(snr), "noise": snr, "velocity": 1 + snr}[target],
    }[weight]
    found = loss_weight(PROCESS, target, weight, TIMES, min_snr_gamma=GAMMA) * error.square().mean(-1)
    torch.testing.assert_close(found, documented * whitened.square().mean(-1), rtol=1e-9, atol=1e-12)


def test_eq_7_would_be_the_stated_weight_on_the_noise() -> None:
    z_0, noise, z_t, gaussian = make_case()
    wrong = sample_from_target(PROCESS, "noise", noise + 0.5, z_t, TIMES, gaussian=gaussian)
    abar = PROCESS.alpha_bar[TIMES]
    eq_7 = loss_weight(PROCESS, "sample", "p2", TIMES, min_snr_gamma=GAMMA)
    whitened = (gaussian.whiten(wrong) - gaussian.whiten(z_0)).square().mean(-1)
    torch.testing.assert_close(eq_7 * whitened, (1 - abar).square() / abar * 0.25, rtol=1e-9, atol=1e-12)


def test_p2_is_one_minus_abar() -> None:
    weight = loss_weight(PROCESS, "sample", "p2", TIMES, min_snr_gamma=GAMMA)
    torch.testing.assert_close(weight, 1 - PROCESS.alpha_bar[TIMES], rtol=0, atol=0)


@pytest.mark.parametrize("power", [None, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("target", ["sample", "velocity"])
def test_a_flows_loss_is_the_velocitys_error_times_a_power_of_the_time(target: Target, power: float | None) -> None:
    """An x_0 wrong by d is a velocity noise - x_0 wrong by d / t, as x_t is known; times below 0.1 count as 0.1."""
    process = make_process(ProcessConfig(path="flow", target=target, time_power=power))
    generator = torch.Generator().manual_seed(2)
    x_0, noise = torch.randn(2, 4, 7, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.1, 0.25, 0.5, 1.0], dtype=torch.float64)
    d = torch.linspace(-1, 1, 7, dtype=torch.float64)
    predicted = x_0 + d if target == "sample" else noise - x_0 - d / t[:, None]
    expected = d.square().mean() / t.square() * t ** (power or 0)
    found = denoising_loss(process, predicted, x_0, noise, t, gaussian=STANDARD)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    below = torch.full_like(t, 0.04)
    if target == "sample":
        clamped = denoising_loss(process, predicted, x_0, noise, below, gaussian=STANDARD)
        torch.testing.assert_close(clamped, (d.square().mean() * 0.1 ** ((power or 0) - 2)).expand(4))


@pytest.mark.parametrize("settings", [{"path": "ddpm", "time_power": 1.0}, {"time_power": -1.0}, {"time_power": 4.5}])
def test_a_power_of_the_time_is_refused_where_it_means_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="time_power"):
        ProcessConfig(**settings)


@pytest.mark.parametrize("target", TARGETS)
def test_the_networks_output_is_standardised(target: Target) -> None:
    """Over embeddings of mean m and std s, the right output has mean 0 and variance 1."""
    count = 200_000
    generator = torch.Generator().manual_seed(1)
    m, s = torch.tensor([3.0, -1.0]), torch.tensor([0.2, 4.0])
    z_0, noise = torch.randn(2, count, 2, generator=generator)
    z_0 = m + s * z_0
    scale = Normalization(2)
    scale.measure(z_0)
    gaussian = Gaussian(torch.tensor([[1.0, 2.0]]).expand(count, 2), torch.tensor([[0.5, 3.0]]).expand(count, 2))
    for t in (1, 300, 1000):
        time = torch.full((count,), t)
        affine = output_scale(PROCESS, target, time, gaussian, m=scale.mean, s=scale.std)
        output = (true_target(PROCESS, target, z_0, noise, time, gaussian=gaussian) - affine.centre) / affine.spread
        assert output.mean(0).abs().max() < 0.02
        assert (output.std(0) - 1).abs().max() < 0.02


def make_scale() -> Normalization:
    scale = Normalization(6)
    scale.measure(torch.randn(50, 6, generator=torch.Generator().manual_seed(2)) * torch.arange(1.0, 7) + 3)
    return scale


def test_guidance_moves_every_dimension_away_from_the_plain_prediction() -> None:
    captioned, plain = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(3))
    guided = guide(captioned, plain, scale=3.0, rescale=0.0, normalization=make_scale())
    torch.testing.assert_close(guided - plain, 3 * (captioned - plain))


def test_rescaling_brings_back_the_spread_of_the_captioned_prediction() -> None:
    captioned, plain = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(3))
    scale = make_scale()

    def spread(z_0: Tensor) -> Tensor:
        return ((z_0 - scale.mean) / scale.std).std(-1)

    free, half, full = (
        guide(captioned, plain, scale=6.0, rescale=rescale, normalization=scale) for rescale in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(spread(full), spread(captioned))
    torch.testing.assert_close(half, (free + full) / 2)
    assert (spread(free) > spread(full)).all()


def test_rescaling_leaves_a_prediction_of_the_mean_alone() -> None:
    scale = make_scale()
    mean = scale.mean.expand(2, 6)
    assert torch.equal(guide(mean, mean, scale=2.0, rescale=1.0, normalization=scale), mean)
