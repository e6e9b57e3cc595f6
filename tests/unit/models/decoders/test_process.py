"""Noise processes: with a perfect network, every sampler returns the picture it knows."""

import pytest
import torch

from models.decoders.config import PARAMETRIZATIONS
from models.decoders.process import make_process


@pytest.fixture
def pictures():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_mixing_goes_from_the_picture_to_pure_noise(parametrization, pictures):
    process = make_process(parametrization)
    noise = torch.randn_like(pictures)
    start, _ = process.mix(pictures, noise, torch.zeros(4))
    end, timestep = process.mix(pictures, noise, torch.ones(4))
    torch.testing.assert_close(start, pictures, atol=0.03, rtol=0)
    torch.testing.assert_close(end, noise, atol=0.03, rtol=0)
    assert timestep.shape == (4,)


@pytest.mark.parametrize("parametrization", ["flow_sample", "ddpm_sample"])
def test_a_network_that_knows_the_picture_samples_it(parametrization, pictures):
    process = make_process(parametrization)
    sampled = process.sample(lambda noisy, timestep: pictures, torch.randn_like(pictures), 5)
    torch.testing.assert_close(sampled, pictures, atol=2e-3, rtol=0)


def test_the_velocity_sampler_inverts_the_velocity_target(pictures):
    process = make_process("ddpm_velocity")
    noise = torch.randn_like(pictures)

    def velocity(noisy, timestep):
        abar = process.alphas_cumprod[timestep.long()]
        implied = (noisy - abar.sqrt() * pictures) / (1 - abar).sqrt()
        return abar.sqrt() * implied - (1 - abar).sqrt() * pictures

    torch.testing.assert_close(process.sample(velocity, noise, 8), pictures, atol=5e-3, rtol=0)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_loss_is_per_sample_and_zero_for_the_target(parametrization, pictures):
    process = make_process(parametrization)
    noise, time = torch.randn_like(pictures), torch.tensor([0.2, 0.4, 0.6, 0.8])
    target = pictures
    if parametrization == "ddpm_velocity":
        abar = process.alphas_cumprod[(time * 1000).long()][:, None, None, None]
        target = abar.sqrt() * noise - (1 - abar).sqrt() * pictures
    assert process.loss(target, pictures, noise, time).abs().max() < 1e-9
    assert (process.loss(target + 1, pictures, noise, time) > 0).all()


def test_flow_loss_is_the_velocity_error(pictures):
    time, noise = torch.full((4,), 0.5), torch.randn_like(pictures)
    process = make_process("flow_sample")
    noisy, _ = process.mix(pictures, noise, time)
    guess = torch.zeros_like(pictures)
    error = (noisy - guess) / 0.5 - (noise - pictures)  # v of the guess less the true v
    torch.testing.assert_close(process.loss(guess, pictures, noise, time), error.square().mean(dim=(1, 2, 3)))
