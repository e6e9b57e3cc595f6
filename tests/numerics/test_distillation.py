"""Distillation against a closed form: where data are Gaussian, the map of the probability flow is known.

With data N(M, S^2) and the process's Gaussian N(mu, Sigma), z_t ~ N(m_t, v_t), m_t = a_t M + (1 - a_t) mu and
v_t = a_t^2 S^2 + b_t^2 Sigma in each dimension, and the flow leads from z_t to m_s + sqrt(v_s / v_t) (z_t - m_t).
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.guidance import guide
from models.diffusion.processes import Gaussian, Process
from models.gaussians.bank import GaussianBank
from models.noise import SeededNoise
from models.priors.diffusion.distillation import Distillation, distillation_random_inputs, one_step_sample
from models.priors.diffusion.model import DiffusionPrior
from models.priors.diffusion.spec import DistilledSpec, ShiftedPriorSpec
from models.priors.flow.model import FlowPrior
from models.priors.flow.spec import FlowPriorSpec
from models.priors.registry import read_spec
from models.priors.spec import PriorSampling, TransformerSpec
from models.priors.text import TextFeatures
from models.priors.training import training_batch

DIM, MANY = 3, 400
MEAN, STD = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.5, 1.5, 1.0])
MU, SIGMA = torch.tensor([1.0, 0.5, -1.0]), torch.tensor([2.0, 1.5, 3.0])
NETWORK = TransformerSpec(width=16, num_layers=1, num_heads=2)


def make_prior(kind: str, **changes: Any) -> DiffusionPrior:
    """Return a prior around N(MU, SIGMA^2) whose network sees z_t and predicts z_0."""
    known: dict[str, Any] = {"network": NETWORK, "standardise": "none", "target": "sample", **changes}
    bank = GaussianBank(MU[None], SIGMA[None], kappa=1.0)
    if kind == "flow":
        return FlowPrior(FlowPriorSpec(DIM, source="gaussian", **known), bank)
    return DiffusionPrior(ShiftedPriorSpec(DIM, kappa=1.0, **known), bank)


def moments(process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    a, b = process.scales(t, torch.zeros(len(t), DIM, dtype=torch.float64))
    return a * MEAN + (1 - a) * MU, ((a * STD).square() + (b * SIGMA).square()).sqrt()


class Network(nn.Module):
    """What reads no caption: E[z_0 | z_t] of the data; in training, any affine map of z_t at each of these times."""

    def __init__(self, process: Process, times: Tensor | None = None) -> None:
        super().__init__()
        self.parts, self.times = (process,), times
        if times is not None:
            self.offset, self.slope = (
                nn.Parameter(torch.zeros(len(times), DIM)),
                nn.Parameter(torch.zeros(len(times), DIM)),
            )

    def forward(self, noisy: Tensor, time: Tensor, index: Tensor, text: TextFeatures, drop: Tensor) -> Tensor:
        process = self.parts[0]
        if self.times is not None:
            at = (process.count(self.times)[None] - time[:, None]).abs().argmin(1)
            return self.offset[at] + self.slope[at] * noisy
        t = time if process.spec.path == "ddpm" else time / process.num_timesteps
        (m_t, std_t), a = moments(process, t), process.scales(t, noisy.double())[0]
        return (MEAN + a * STD.square() / std_t.square() * (noisy - m_t)).to(noisy.dtype)

    def prefix(self, text: TextFeatures, drop_text: Tensor) -> Tensor:
        return drop_text

    def predict(self, prefix: Tensor, noisy: Tensor, time: Tensor, gaussian_index: Tensor) -> Tensor:
        return self(noisy, time, gaussian_index, None, prefix)


def a_batch(distillation: Distillation, count: int = MANY) -> dict[str, Tensor]:
    image = MEAN + STD * torch.randn(count, DIM, generator=torch.Generator().manual_seed(0))
    inputs = distillation_random_inputs(distillation.student.spec, range(count), text_dropout=0.0)
    return training_batch(image, TextFeatures(torch.ones(count, DIM)), inputs)


def distilled_to_the_end(kind: str, num_steps: int, teacher_steps: int) -> tuple[DiffusionPrior, DiffusionPrior]:
    """Return the perfect teacher and its student, trained until the loss falls no more."""
    teacher = make_prior(kind)
    distillation = Distillation(teacher, DistilledSpec(num_steps=num_steps, teacher_steps=teacher_steps))
    teacher.network = Network(teacher.process)  # type: ignore[assignment]
    times = distillation.times[:: teacher_steps // num_steps][:-1]
    student = Network(teacher.process, times)
    distillation.student.network = student  # type: ignore[assignment]
    batch = a_batch(distillation)
    optimizer = torch.optim.LBFGS(student.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = distillation(batch)["loss"].mean()
        found.backward()
        return found

    optimizer.step(loss)
    return teacher, distillation.student


@pytest.mark.parametrize("num_steps", [1, 2, 4])
@pytest.mark.parametrize("kind", ["shifted", "flow"])
def test_a_student_follows_the_flow_in_few_steps(kind: str, num_steps: int) -> None:
    """From the same noise the student comes where 64 steps of its teacher do, near the exact flow; as few of its
    teacher's steps do not. What is asked of sampling besides (more steps, guidance) has no effect.
    """
    teacher, student = distilled_to_the_end(kind, num_steps, 64)
    text, seeds = TextFeatures(torch.ones(MANY, DIM)), range(1000, 1000 + MANY)
    noise = MU + SIGMA * SeededNoise(seeds).normal((DIM,))
    (m_T, std_T) = moments(teacher.process, torch.tensor([teacher.process.steps(1)[0][0]]))
    exact = MEAN + STD / std_T * (noise - m_T)
    found = {
        "student": student.sample(text, seeds, PriorSampling(num_steps=50, guidance_scale=3.0)),
        "few": teacher.sample(text, seeds, PriorSampling(num_steps=num_steps, sampler="ddim")),
        "many": teacher.sample(text, seeds, PriorSampling(num_steps=64, sampler="ddim")),
    }
    errors = {name: float(((one - exact) / STD).square().mean().sqrt()) for name, one in found.items()}
    assert float(((found["student"] - found["many"]) / STD).abs().max()) < 5e-3
    assert errors["student"] < 0.07
    assert errors["few"] > 0.3
    torch.testing.assert_close(found["student"].mean(0), found["many"].mean(0), rtol=0, atol=0.01)


@pytest.mark.parametrize("kind", ["shifted", "flow"])
def test_with_more_steps_of_the_teacher_the_student_is_the_flow_itself(kind: str) -> None:
    errors = []
    for teacher_steps in (32, 128):
        student = distilled_to_the_end(kind, 2, teacher_steps)[1]
        noise = MU + SIGMA * SeededNoise(range(MANY)).normal((DIM,))
        m_T, std_T = moments(student.process, torch.tensor([student.process.steps(1)[0][0]]))
        found = student.sample(TextFeatures(torch.ones(MANY, DIM)), range(MANY), PriorSampling())
        errors.append(float((found - MEAN - STD / std_T * (noise - m_T)).abs().max()))
    assert errors[1] < errors[0] / 3  # an error of first order


@pytest.mark.parametrize("kind", ["shifted", "flow"])
def test_one_step_of_ddim_with_the_learned_x_ends_where_the_teacher_did(kind: str) -> None:
    process, gaussian = make_prior(kind).process, Gaussian(MU, SIGMA)
    z_t, z_r = torch.randn(2, 1, DIM, generator=torch.Generator().manual_seed(0))
    for end in (400, 0) if kind == "shifted" else (0.4, 0.0):
        t, r = torch.tensor([900 if kind == "shifted" else 0.9]), torch.tensor([end])
        x = one_step_sample(process, z_t, z_r, t, r, gaussian=gaussian)
        a, b = process.scales(t, z_t)
        eps = (gaussian.whiten(z_t) - a * gaussian.whiten(x)) / b
        torch.testing.assert_close(process.ddim(x, eps, t, r, gaussian)[0], z_r, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["shifted", "flow"])
@pytest.mark.parametrize("target", ["sample", "velocity"])
def test_guidance_is_baked_in(kind: str, target: str) -> None:
    """With a part of one step, x is the guided prediction; a caption that is left out has none to be guided by."""
    torch.manual_seed(0)
    teacher = make_prior(kind, target=target)
    for weight in teacher.parameters():  # an untrained one predicts the same with and without a caption
        nn.init.normal_(weight, std=0.3)
    distillation = Distillation(teacher, DistilledSpec(num_steps=4, teacher_steps=8, guidance_scale=3.0))
    distillation._part_length = 1
    text, z_t, drop = TextFeatures(torch.randn(5, DIM)), torch.randn(5, DIM), torch.arange(5) == 2
    index, mean, std = teacher.source(text)
    t = distillation.times[torch.full((5,), 3)]
    plain, empty = (
        teacher.predictor(text, index, Gaussian(mean, std), PriorSampling(), drop_text=dropped)(z_t, t)
        for dropped in (drop, torch.ones_like(drop))
    )
    found, _ = distillation.target(z_t, torch.full((5,), 3), text, drop_text=drop)
    torch.testing.assert_close(found, guide(plain, empty, scale=3.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[2], empty[2], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain[:2], empty[:2], atol=1e-2)


def test_a_student_begins_as_its_teacher_and_trains_its_network_alone() -> None:
    teacher = make_prior("shifted", learnable=True)
    distillation = Distillation(teacher, DistilledSpec())
    saved = teacher.state_dict()
    assert {name.removeprefix("student.") for name in distillation.state_dict()} == saved.keys()
    for name, value in distillation.student.state_dict().items():
        assert torch.equal(value, saved[name])
        assert value.data_ptr() != saved[name].data_ptr()
    distillation(a_batch(distillation, 8))["loss"].sum().backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    trained = {name for name, weight in distillation.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in distillation.named_parameters() if not name.startswith("student.bank.")}


def test_only_a_distilled_prior_is_named_so() -> None:
    spec = make_prior("flow").spec
    assert "distilled" not in spec.to_dict()
    assert read_spec(spec.to_dict()) == spec
    student = Distillation(make_prior("flow"), DistilledSpec(num_steps=2)).student.spec
    assert read_spec(student.to_dict()) == student
    assert student.num_sampling_steps == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_steps": 3}, "teacher_steps: found 64: expected a multiple of num_steps, 3"),
        ({"num_steps": 64}, "and more than it"),
        ({"num_steps": 0}, "num_steps: found 0"),
        ({"guidance_scale": -1.0}, "guidance_scale: found -1.0: expected 0 to 1000"),
        ({"teacher_steps": 2000}, "teacher_steps: found 2000: expected at most 1000"),
    ],
)
def test_steps_that_do_not_divide_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ShiftedPriorSpec(DIM, distilled=DistilledSpec(**changes))


def test_a_prior_that_predicts_noise_has_no_student() -> None:
    with pytest.raises(ValueError, match="target: found 'noise': expected sample or velocity where the prior is"):
        ShiftedPriorSpec(DIM, target="noise", distilled=DistilledSpec())
