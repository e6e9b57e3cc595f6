"""Noise processes: with a perfect network, every sampler returns the image it knows."""

import pytest
import torch

from models.diffusion.guidance import threshold
from models.diffusion.loss_weights import denoising_loss
from models.diffusion.processes import STANDARD, make_process
from models.diffusion.samplers import sample_images
from models.diffusion.spec import ProcessConfig

PROCESSES = [
    ProcessConfig(),
    *(ProcessConfig(path="ddpm", target=target) for target in ("sample", "noise", "velocity")),
    ProcessConfig(path="ddpm", target="velocity", schedule="linear", zero_terminal_snr=True),
]


def mix(process, images, noise, time):
    return process.diffuse(images, process.time(time), STANDARD, noise)


def loss(process, prediction, images, noise, time):
    return denoising_loss(process, prediction, images, noise, process.time(time))


def name_of(config):
    return f"{config.path}-{config.target}-{config.schedule}"


def true_prediction(config, process, images, noise, time):
    """Return what a network would have to say."""
    if config.target == "sample":
        return images
    if config.target == "noise":
        return noise
    abar = process.alpha_bar[process.time(time)][:, None, None, None]
    return abar.sqrt() * noise - (1 - abar).sqrt() * images


@pytest.fixture
def images():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("config", PROCESSES, ids=name_of)
def test_mixing_goes_from_the_image_to_pure_noise(config, images):
    process = make_process(config)
    noise = torch.randn_like(images)
    start = mix(process, images, noise, torch.zeros(4))
    end = mix(process, images, noise, torch.ones(4))
    torch.testing.assert_close(start, images, atol=0.05, rtol=0)
    torch.testing.assert_close(end, noise, atol=0.03, rtol=0)
    assert process.timestep(process.time(torch.ones(4))).shape == (4,)


@pytest.mark.parametrize("bounds", [{}, {"bounded": False}, {"dynamic_threshold": 0.9}], ids=str)
@pytest.mark.parametrize("config", PROCESSES, ids=name_of)
def test_a_network_that_knows_the_image_samples_it(config, bounds, images):
    process = make_process(config)
    noise = torch.randn_like(images)

    def knows(x_t, timestep):
        if config.target == "sample":
            return images
        abar = process.alpha_bar[timestep.long() + 1][:, None, None, None]
        implied = (x_t - abar.sqrt() * images) / (1 - abar).sqrt()
        return implied if config.target == "noise" else abar.sqrt() * implied - (1 - abar).sqrt() * images

    torch.testing.assert_close(sample_images(process, knows, lambda: noise, 8, **bounds), images, atol=5e-3, rtol=0)


@pytest.mark.parametrize("config", PROCESSES, ids=name_of)
def test_loss_is_per_sample_and_zero_for_the_target(config, images):
    process = make_process(config)
    noise, time = torch.randn_like(images), torch.tensor([0.2, 0.4, 0.6, 0.8])
    target = true_prediction(config, process, images, noise, time)
    assert loss(process, target, images, noise, time).abs().max() < 1e-9
    assert (loss(process, target + 1, images, noise, time) > 0).all()


@pytest.mark.parametrize("target", ["sample", "noise", "velocity"])
def test_min_snr_weighs_the_images_error_alike_whatever_is_predicted(target, images):
    """Hang et al. 2023: an error e of the image costs min(SNR, gamma) |e|^2 in all three parametrisations."""
    config = ProcessConfig(path="ddpm", target=target, min_snr_gamma=3.0)
    process = make_process(config)
    noise, time = torch.randn_like(images), torch.tensor([0.05, 0.3, 0.6, 0.9])
    abar = process.alpha_bar[process.time(time)][:, None, None, None]
    a, b = abar.sqrt(), (1 - abar).sqrt()
    error = 0.1 * torch.randn_like(images)
    x_t = a * images + b * noise
    wrong = images + error
    implied = (x_t - a * wrong) / b
    prediction = {"sample": wrong, "noise": implied, "velocity": a * implied - b * wrong}[target]
    expected = (abar / (1 - abar)).flatten().clamp_max(3.0) * error.square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss(process, prediction, images, noise, time), expected, rtol=1e-3, atol=1e-6)


def test_uniform_weights_leave_the_error_as_it_is(images):
    process = make_process(ProcessConfig(path="ddpm", target="noise", loss_weight="uniform"))
    noise, time = torch.randn_like(images), torch.tensor([0.2, 0.4, 0.6, 0.8])
    torch.testing.assert_close(loss(process, noise + 2, images, noise, time), torch.full((4,), 4.0))


def test_zero_terminal_snr_leaves_nothing_of_the_image_and_still_learns_there(images):
    config = ProcessConfig(path="ddpm", target="velocity", zero_terminal_snr=True)
    process, plain = make_process(config), make_process(ProcessConfig(path="ddpm", target="velocity"))
    assert process.alpha_bar[-1] == 0 < plain.alpha_bar[-1]
    noise, last = torch.randn_like(images), torch.ones(4)
    noisy = mix(process, images, noise, last)
    assert torch.equal(noisy, noise)
    assert (loss(process, torch.zeros_like(images), images, noise, last) > 0).all()


def test_schedules_differ(images):
    cosine, linear = (make_process(ProcessConfig(path="ddpm", schedule=name)) for name in ("cosine", "linear"))
    assert cosine.alpha_bar[500] > 0.4 > linear.alpha_bar[500]


def test_dynamic_thresholding_scales_by_the_percentile_of_each_image():
    within, beyond = torch.linspace(-0.9, 0.9, 100), torch.linspace(-4.0, 4.0, 100)
    images = torch.stack([within, beyond]).reshape(2, 1, 10, 10)
    done = threshold(images, 0.5)
    assert torch.equal(done[0], images[0])
    s = beyond.abs().sort().values[49]
    torch.testing.assert_close(done[1].flatten(), beyond.clamp(-s, s) / s)
    assert torch.equal(threshold(images, None), images.clamp(-1, 1))


def test_flow_loss_is_the_velocity_error(images):
    time, noise = torch.full((4,), 0.5), torch.randn_like(images)
    process = make_process(ProcessConfig())
    noisy = mix(process, images, noise, time)
    guess = torch.zeros_like(images)
    error = (noisy - guess) / 0.5 - (noise - images)  # v of the guess less the true v
    torch.testing.assert_close(loss(process, guess, images, noise, time), error.square().mean(dim=(1, 2, 3)))


def test_errors_lie_in_the_layout_of_the_prediction() -> None:
    """A mean adds in the order of memory: in another layout, losses differ in their last bit from those of before."""
    images, noise = torch.randn(8, 3, 16, 16), torch.randn(8, 3, 16, 16)
    prediction = torch.randn(8, 3, 16, 16).to(memory_format=torch.channels_last)
    found = loss(
        make_process(ProcessConfig(path="ddpm", loss_weight="uniform")), prediction, images, noise, torch.rand(8)
    )
    error = (prediction - images).square()
    assert torch.equal(found, error.mean(dim=(1, 2, 3)))
    assert not torch.equal(found, error.contiguous().mean(dim=(1, 2, 3)))
