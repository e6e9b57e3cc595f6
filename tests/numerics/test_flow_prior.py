"""The flow prior against closed-form transport between Gaussians, and the scales of a network's input and output."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.processes import Gaussian
from models.diffusion.samplers import Estimate, sample
from models.diffusion.schedules import dimension_shift, logit_normal_times, shifted_times
from models.diffusion.targets import true_target
from models.noise import SeededNoise
from models.priors.diffusion.model import DiffusionPrior
from models.priors.diffusion.spec import GaussianPriorSpec, ShiftedPriorSpec
from models.priors.flow.model import FlowPrior
from models.priors.flow.spec import FlowPriorSpec
from models.priors.spec import PriorSampler, PriorSampling, TransformerSpec
from models.priors.text import TextFeatures
from models.priors.training import training_batch, training_random_inputs

DIM, MANY = 3, 6_000
NETWORK = TransformerSpec(width=16, num_layers=1, num_heads=2)
MEAN, STD = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.5, 1.5, 1.0])


def make_pairs(count: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = MEAN + STD * torch.randn(count, DIM, generator=generator)
    return image, image.flip(1) * 0.3 + 5 + 0.1 * torch.randn(count, DIM, generator=generator)


def make_flow(**changes: Any) -> FlowPrior:
    image, text = make_pairs()
    gaussians = (torch.eye(DIM)[:2] * 3, torch.full((2, DIM), 0.4))
    count = 2 if changes.get("source") == "gaussian" else 1
    prior = FlowPrior.for_training(
        FlowPriorSpec(DIM, num_gaussians=count, network=NETWORK, **changes), image, text, gaussians
    )
    return prior.eval()


class Best(nn.Module):
    """The perfect network where every caption stands for N(MEAN, STD^2)."""

    def __init__(self, prior: DiffusionPrior, gaussian: Gaussian) -> None:
        super().__init__()
        self.parts, self.gaussian = (prior,), gaussian

    def prefix(self, text: TextFeatures, drop_text: Tensor) -> None:
        """Read nothing of the caption."""

    def predict(self, prefix: None, noisy: Tensor, time: Tensor, gaussian_index: Tensor) -> Tensor:
        prior, gaussian = self.parts[0], self.gaussian
        t = time / prior.process.num_timesteps
        zero = torch.zeros_like(noisy)
        centre = prior._noisy_input(zero, t, gaussian)
        z_t = (noisy - centre) / (prior._noisy_input(zero + 1, t, gaussian) - centre)  # the input is affine in z_t
        signal, noise = prior.process.variances(t, z_t)
        seen = signal * STD.square() + noise * torch.as_tensor(gaussian.std).square()
        z_0 = MEAN + signal.sqrt() * STD.square() / seen * (
            z_t - signal.sqrt() * MEAN - (1 - signal.sqrt()) * gaussian.mean
        )
        eps = (gaussian.whiten(z_t) - signal.sqrt() * gaussian.whiten(z_0)) / noise.sqrt()
        scale = prior._output_scale(t, gaussian)
        target = true_target(prior.process, prior.spec.target, z_0, eps, t, gaussian=gaussian)
        return (target - scale.centre) / scale.spread


@pytest.mark.parametrize("standardise", ["none", "global", "gaussian"])
@pytest.mark.parametrize("target", ["velocity", "sample"])
@pytest.mark.parametrize("source", ["noise", "gaussian", "text"])
def test_every_source_is_transported_as_between_gaussians(source: str, target: str, standardise: str) -> None:
    """z_0 = MEAN + STD eps for the very eps of the source: the map between Gaussians (Heun, 200 steps, to 2 %)."""
    prior = make_flow(source=source, target=target, standardise=standardise)
    text = TextFeatures(make_pairs(40)[1])
    prior.network = Best(prior, Gaussian(*prior.source(text)[1:]))  # type: ignore[assignment]
    found = prior.sample(text, range(40), PriorSampling(num_steps=200, sampler="heun"))
    eps = SeededNoise(range(40)).normal((DIM,))
    torch.testing.assert_close(found, MEAN + STD * eps, rtol=0, atol=0.02 * float(STD.max()))


def test_heun_needs_far_fewer_steps_than_euler() -> None:
    prior = make_flow()
    text = TextFeatures(make_pairs(40)[1])
    prior.network = Best(prior, Gaussian(*prior.source(text)[1:]))  # type: ignore[assignment]
    expected = MEAN + STD * SeededNoise(range(40)).normal((DIM,))
    errors = {}
    samplers: list[PriorSampler | None] = [None, "euler", "heun", "dpm_solver"]
    for sampler in samplers:
        found = prior.sample(text, range(40), PriorSampling(num_steps=20, sampler=sampler))
        errors[sampler] = float((found - expected).norm() / expected.norm())
    assert errors[None] == errors["euler"]  # the default of the kind
    assert errors["heun"] < errors["euler"] / 3
    assert errors["dpm_solver"] < errors["euler"] / 2


def test_the_text_source_has_the_moments_of_the_images_and_noise() -> None:
    prior, (image, text) = make_flow(source="text", noise_scale=0.5), make_pairs()
    _, mean, std = prior.source(TextFeatures(text))
    torch.testing.assert_close(mean.mean(0), image.mean(0), rtol=0, atol=1e-4)
    torch.testing.assert_close(mean.std(0, correction=0), image.std(0, correction=0), rtol=1e-4, atol=0)
    torch.testing.assert_close(std[0], 0.5 * image.std(0, correction=0), rtol=1e-4, atol=0)


def test_sources_are_equally_strong() -> None:
    """Noise and Gaussian have one root mean square, whatever the Gaussians' own widths."""
    text = TextFeatures(make_pairs()[1])
    noise, gaussian = (make_flow(source=source).source(text)[2] for source in ("noise", "gaussian"))
    assert float(gaussian.square().mean()) == pytest.approx(float(noise.square().mean()), rel=1e-4)
    assert float(noise.square().mean()) == pytest.approx(float(make_pairs()[0].var(0, correction=0).mean()), rel=1e-4)


def test_times_are_logit_normal_and_shifted() -> None:
    """The logarithm of t / (1 - t) is N(0, 1), and a shift adds its own logarithm; five standard errors."""
    uniform = torch.rand(MANY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = logit_normal_times(uniform).logit()
    assert abs(float(logits.mean())) < 5 / MANY**0.5
    assert abs(float(logits.var()) - 1) < 5 * (2 / MANY) ** 0.5
    shift = dimension_shift(768, 4096)
    assert shift == pytest.approx((768 / 4096) ** 0.5)
    moved = shifted_times(logit_normal_times(uniform), shift).logit()
    torch.testing.assert_close(moved, logits + torch.tensor(shift).double().log(), rtol=0, atol=1e-6)
    spec = FlowPriorSpec(DIM, base_dims=12, network=NETWORK)
    times = training_random_inputs(spec, range(MANY), text_dropout=0.1)["time"].double()
    assert abs(float(times.logit().mean()) - float(torch.tensor(0.5).log())) < 5 / MANY**0.5
    steps = FlowPrior.make_process(spec).steps(4)
    assert steps[0][0] == 1.0
    assert steps[-1][1] == 0.0
    assert steps[2] == pytest.approx((0.5 * 0.5 / 0.75, 0.5 * 0.25 / 0.875))


def test_guidance_holds_within_its_interval_alone() -> None:
    torch.manual_seed(0)
    prior = make_flow()
    nn.init.normal_(prior.network.answer.weight, std=0.3)
    text = TextFeatures(make_pairs(5)[1])

    def found(**settings: float) -> Tensor:
        return prior.sample(text, range(5), PriorSampling(num_steps=4, **settings))  # type: ignore[arg-type]

    everywhere = found(guidance_scale=3.0)
    assert not torch.allclose(everywhere, found())
    torch.testing.assert_close(found(guidance_scale=3.0, guidance_end=0.2), found(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found(guidance_scale=3.0, guidance_start=0.2), everywhere, rtol=1e-4, atol=1e-4)
    within = found(guidance_scale=3.0, guidance_start=0.6)
    assert not torch.allclose(within, everywhere)
    assert not torch.allclose(within, found())


@pytest.mark.parametrize("target", ["sample", "velocity", "noise"])
@pytest.mark.parametrize("standardise", ["none", "global", "gaussian"])
@pytest.mark.parametrize("kind", ["shifted", "gaussian"])
def test_scales_are_a_parametrisation_alone(kind: str, standardise: str, target: str) -> None:
    """The perfect network gives the same samples in every one, for shifted and baseline alike."""
    image, text = make_pairs(30)
    specs: dict[str, Any] = {"shifted": ShiftedPriorSpec, "gaussian": GaussianPriorSpec}
    fitted = (torch.eye(DIM)[:2] * 3, torch.full((2, DIM), 0.4))
    spec = specs[kind](
        DIM, num_gaussians=2 if kind == "shifted" else 1, network=NETWORK, standardise=standardise, target=target
    )
    prior = DiffusionPrior.for_training(spec, image, text, fitted)
    gaussian = Gaussian(*prior.source(TextFeatures(text))[1:])
    t = torch.full((30,), 400)
    noise = SeededNoise(range(30)).normal((DIM,))
    z_t = prior.process.diffuse(image, t, gaussian, noise)
    scale = prior._output_scale(t, gaussian)
    true = true_target(prior.process, spec.target, image, noise, t, gaussian=gaussian)
    noisy = prior._noisy_input(z_t, t, gaussian)
    if standardise == "none":
        assert torch.equal(noisy, z_t)
        assert torch.equal(scale(true), true)
        assert torch.equal(prior._text_input(TextFeatures(text)).embedding, text)
    elif standardise == "gaussian":
        mean, std = (torch.as_tensor(value) for value in (gaussian.mean, gaussian.std))
        signal, of_noise = prior.process.variances(t, z_t)
        sigma = std / prior.bank.kappa
        expected = (z_t - mean) / (signal * sigma.square() + of_noise * std.square()).sqrt()
        torch.testing.assert_close(noisy, expected, rtol=1e-4, atol=1e-4)
        if target == "sample":
            torch.testing.assert_close(scale((image - mean) / sigma), image, rtol=1e-4, atol=1e-4)
    else:
        assert noisy.std() < 2
    steps = prior.process.steps(8)

    def estimate(x_t: Tensor, now: Tensor) -> Estimate:
        return Estimate(image)

    found = sample(prior.process, estimate, noise.clone, steps, solver=PriorSampling(num_steps=8), gaussian=gaussian)
    torch.testing.assert_close(found, image)


@pytest.mark.parametrize("source", ["noise", "gaussian", "text"])
def test_a_flow_learns(source: str) -> None:
    """200 steps of Adam take two fifths or more off the loss of the untrained network."""
    torch.manual_seed(0)
    prior, (image, text) = make_flow(source=source).train(), make_pairs()
    optimizer = torch.optim.Adam(prior.parameters(), lr=3e-3)
    losses = []
    for step in range(200):
        inputs = training_random_inputs(prior.spec, range(step * 400, step * 400 + 400), text_dropout=0.0)
        loss = prior(training_batch(image, TextFeatures(text), inputs))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.6 * sum(losses[:5]) / 5
