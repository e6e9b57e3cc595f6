"""One core for embeddings and images: every path, target and sampler on both shapes, against closed forms."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from models.diffusion.guidance import guide, guided
from models.diffusion.loss_weights import denoising_loss
from models.diffusion.processes import STANDARD, Gaussian, Process, make_process
from models.diffusion.samplers import Estimate, Estimator, InitImage, sample, sample_images
from models.diffusion.schedules import alpha_bars
from models.diffusion.spec import TARGETS, ProcessConfig, Sampler, ScheduleSpec, SolverSpec, Target
from models.diffusion.targets import noise_from_target, output_scale, sample_from_target, true_target
from models.normalization import Normalization

SHAPES = [(6,), (3, 4, 4)]
MEAN, STD = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.5])
SOURCE_MEAN, SOURCE_STD = torch.tensor([-3.0, 4.0]), torch.tensor([2.0, 0.7])
SOLVERS = [SolverSpec(sampler="euler"), SolverSpec(sampler="ddim"), SolverSpec(sampler="ddim", eta=1.0),
           SolverSpec(sampler="ancestral"), SolverSpec(sampler="dpm_solver")]  # fmt: skip


def make(path: str, target: Target = "sample") -> Process:
    return make_process(ProcessConfig(path=path, target=target), alpha_bars(ScheduleSpec()))  # type: ignore[arg-type]


def case(process: Process, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Gaussian, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_0, noise, mean, std = torch.randn(4, 5, *shape, generator=generator, dtype=torch.float64)
    gaussian, t = Gaussian(mean, std.abs() + 0.1), process.time(torch.tensor([0.01, 0.2, 0.5, 0.7, 0.95]))
    return x_0, noise, process.diffuse(x_0, t, gaussian, noise), gaussian, t


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("path", "target"), [*itertools.product(["ddpm"], TARGETS), ("flow", "sample"), ("flow", "velocity")]
)
def test_every_target_leads_back_to_data_and_noise(path: str, target: Target, shape: tuple[int, ...]) -> None:
    process = make(path, target)
    x_0, noise, x_t, gaussian, t = case(process, shape)
    predicted = true_target(process, target, x_0, noise, t, gaussian=gaussian)
    torch.testing.assert_close(
        sample_from_target(process, target, predicted, x_t, t, gaussian=gaussian), x_0, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        noise_from_target(process, target, predicted, x_t, t, gaussian=gaussian), noise, rtol=1e-5, atol=1e-5
    )
    assert denoising_loss(process, predicted, x_0, noise, t, gaussian=gaussian).abs().max() < 1e-12
    wrong = denoising_loss(process, predicted + 1, x_0, noise, t, gaussian=gaussian)
    assert wrong.shape == (5,)
    assert (wrong > 0).all()


@pytest.mark.parametrize("path", ["ddpm", "flow"])
def test_an_embedding_is_an_image_of_one_row(path: str) -> None:
    """The same numbers give the same losses and samples, whatever their shape."""
    process, solver = make(path), SolverSpec(sampler="ancestral")
    x_0, noise, _, gaussian, t = case(process, (6,))
    grids = [value.reshape(5, 1, 2, 3) for value in (x_0, noise, gaussian.mean, gaussian.std)]
    flat = denoising_loss(process, x_0 + 1, x_0, noise, t, gaussian=gaussian)
    as_image = denoising_loss(process, grids[0] + 1, grids[0], grids[1], t, gaussian=Gaussian(*grids[2:]))
    torch.testing.assert_close(as_image, flat)
    found = [
        sample(process, lambda x_t, t: Estimate(0.9 * x_t), eps.clone, process.steps(4), solver=solver, gaussian=g)
        for eps, g in ((noise, gaussian), (grids[1], Gaussian(*grids[2:])))
    ]
    torch.testing.assert_close(found[1].flatten(1), found[0])


def best(process: Process, gaussian: Gaussian) -> Estimator:
    """Return E[x_0 | x_t] where x_0 ~ N(MEAN, STD^2): the linear estimate."""

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        (a, _), (signal, noise) = process.scales(t, x_t), process.variances(t, x_t)
        seen = signal * STD.double().square() + noise * torch.as_tensor(gaussian.std).square()
        rest = x_t - a * MEAN - (1 - a) * gaussian.mean
        return Estimate(MEAN + a * STD.double().square() / seen * rest)

    return estimate


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: f"{solver.sampler}-{solver.eta}")
def test_a_flow_transports_one_gaussian_to_another(solver: SolverSpec) -> None:
    """Between Gaussians the deterministic flow is the map that keeps each dimension's quantiles."""
    process, generator = make("flow"), torch.Generator().manual_seed(1)
    source = Gaussian(SOURCE_MEAN.double().expand(4_000, 2), SOURCE_STD.double().expand(4_000, 2))
    noises: list[Tensor] = []

    def noise() -> Tensor:
        noises.append(torch.randn(4_000, 2, generator=generator, dtype=torch.float64))
        return noises[-1]

    found = sample(process, best(process, source), noise, process.steps(1000), solver=solver, gaussian=source)
    torch.testing.assert_close(found.mean(0), MEAN.double(), rtol=0, atol=0.1)
    torch.testing.assert_close(found.std(0), STD.double(), rtol=0.06, atol=0)
    if solver.sampler != "ancestral" and solver.eta == 0.0:
        torch.testing.assert_close(found, (MEAN + STD * noises[0]).double(), rtol=0, atol=0.05)


@pytest.mark.parametrize("target", ["sample", "velocity"])
def test_a_trained_flow_over_embeddings_finds_the_transport(target: Target) -> None:
    """A network that is affine at each visited time has the closed form within reach."""
    torch.manual_seed(0)
    process, bins = make("flow", target), 40
    scale = Normalization(2)
    scale.set_statistics(MEAN, STD)
    gain, bias = torch.zeros(bins, 2, requires_grad=True), torch.zeros(bins, 2, requires_grad=True)
    optimizer = torch.optim.Adam([gain, bias], lr=0.2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)

    def predict(x_t: Tensor, t: Tensor, source: Gaussian) -> Tensor:
        number = (t * bins).round().long() - 1
        output = gain[number] * source.whiten(x_t) + bias[number]
        return output_scale(process, target, t, source, m=scale.mean, s=scale.std)(output)

    def source_of(count: int) -> Gaussian:
        return Gaussian(SOURCE_MEAN.expand(count, 2), SOURCE_STD.expand(count, 2))

    for _ in range(600):
        x_0, noise = MEAN + STD * torch.randn(2048, 2), torch.randn(2048, 2)
        t = process.time((torch.randint(bins, (2048,)) + 1) / bins)
        x_t = process.diffuse(x_0, t, source_of(2048), noise)
        predicted = predict(x_t, t, source_of(2048))
        loss = denoising_loss(process, predicted, x_0, noise, t, gaussian=source_of(2048)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        gaussian = source_of(len(x_t))
        return Estimate(sample_from_target(process, target, predict(x_t, t, gaussian), x_t, t, gaussian=gaussian))

    noise = torch.randn(4096, 2)
    with torch.no_grad():
        found, expected = (
            sample(
                process, one, lambda: noise, process.steps(bins), solver=SolverSpec(sampler="euler"), gaussian=source
            )
            for source in [source_of(4096)]
            for one in (estimate, best(process, source))
        )
    assert (found - expected).abs().mean(0).max() < 0.05


def test_euler_is_deterministic_ddim_on_the_flow() -> None:
    process, gaussian = make("flow"), Gaussian(SOURCE_MEAN.double(), SOURCE_STD.double())
    noise = torch.randn(10, 2, dtype=torch.float64)
    samplers: tuple[Sampler, ...] = ("euler", "ddim")
    euler, ddim = (
        sample(
            process,
            best(process, gaussian),
            lambda: noise,
            process.steps(7),
            solver=SolverSpec(sampler=name),
            gaussian=gaussian,
        )
        for name in samplers
    )
    torch.testing.assert_close(euler, ddim, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS[1:], ids=lambda solver: f"{solver.sampler}-{solver.eta}")
@pytest.mark.parametrize(
    "config",
    [
        ProcessConfig(),
        ProcessConfig(path="ddpm"),
        ProcessConfig(path="ddpm", target="velocity", zero_terminal_snr=True),
    ],
)
def test_images_have_every_sampler(config: ProcessConfig, solver: SolverSpec) -> None:
    """With a network that knows the image, all of them end at it."""
    process, generator = make_process(config), torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1

    def knows(x_t: Tensor, timestep: Tensor) -> Tensor:
        t = timestep / 1000 if config.path == "flow" else timestep.long() + 1
        eps = noise_from_target(process, "sample", images, x_t, t, gaussian=STANDARD)
        return true_target(process, config.target, images, eps, t, gaussian=STANDARD)

    found = sample_images(process, knows, lambda: torch.randn(2, 3, 4, 4, generator=generator), 20, solver=solver)
    torch.testing.assert_close(found, images, rtol=0, atol=0.02)
    edited = sample_images(
        process, knows, lambda: torch.randn(2, 3, 4, 4, generator=generator), 20, solver=solver,
        start=InitImage(images, 0.5), dynamic_threshold=0.9,
    )  # fmt: skip
    torch.testing.assert_close(edited, images, rtol=0, atol=0.02)


@pytest.mark.parametrize("target", ["noise", "velocity", "sample"])
def test_clipping_is_that_of_diffusers_with_the_clipped_output(target: Target) -> None:
    """DDIM with ``use_clipped_model_output``: the noise of a step is the one that the clipped image implies."""
    process = make_process(ProcessConfig(path="ddpm", target=target))
    kinds = {"noise": "epsilon", "velocity": "v_prediction", "sample": "sample"}
    theirs = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", clip_sample=True, prediction_type=kinds[target], timestep_spacing="trailing"
    )
    theirs.set_timesteps(10)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = sample_images(process, lambda x_t, t: 0.7 * x_t.tanh() + 0.8, x.clone, 10)
    for t in theirs.timesteps:
        x = theirs.step(0.7 * x.tanh() + 0.8, t, x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_euler_needs_a_flow() -> None:
    with pytest.raises(ValueError, match="found euler on the path ddpm: expected ancestral, ddim or dpm_solver"):
        sample_images(make("ddpm"), lambda x, t: x, lambda: torch.zeros(1, 2), 2, solver=SolverSpec(sampler="euler"))


def test_guidance_of_images_can_be_rescaled() -> None:
    conditional, unconditional = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    predict = guided(lambda x_t, timestep: torch.cat([conditional, unconditional]), 6.0, rescale=1.0)
    found = predict(torch.zeros(4, 3, 5, 5), torch.tensor(3.0))
    torch.testing.assert_close(found.flatten(1).std(1), conditional.flatten(1).std(1))
    torch.testing.assert_close(found, guide(conditional, unconditional, scale=6.0, rescale=1.0))


def test_a_terminal_snr_of_zero_leaves_nothing_in_double_precision_too() -> None:
    abar = alpha_bars(ScheduleSpec("cosine"), zero_terminal_snr=True)
    assert abar[-1] == 0
    assert abar[0] == 1
    torch.testing.assert_close(abar[1], alpha_bars(ScheduleSpec("cosine"))[1])
    assert (abar.diff() < 0).all()
