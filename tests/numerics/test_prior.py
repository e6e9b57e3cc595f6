"""The prior as a whole: repeatable training, samples that depend on their own caption and seed alone, guidance."""

import json

import pytest
import torch
from torch import Tensor

from models.diffusion.processes import Gaussian
from models.diffusion.samplers import Estimate
from models.diffusion.samplers import sample as run_sampler
from models.diffusion.targets import output_scale, sample_from_target
from models.gaussians.bank import GaussianBank
from models.noise import SeededNoise
from models.priors.base import Prior
from models.priors.diffusion.model import DiffusionPrior
from models.priors.diffusion.spec import ShiftedPriorSpec
from models.priors.registry import read_spec
from models.priors.spec import PriorSampling, TextStateSpec, TransformerSpec
from models.priors.text import TextFeatures, TextStates
from models.priors.training import training_batch, training_random_inputs
from tests.numerics.golden_losses import DIM, GOLDEN, NETWORK, RUNS, losses_of, machine, make_pairs
from tests.numerics.golden_losses import make_prior as build_prior

STATE_DIM = 6
STATES = {"t5": TextStateSpec(STATE_DIM, 12)}
WITH_STATES = TransformerSpec(width=16, num_layers=2, num_heads=2, text_states=STATES)
SAMPLINGS = {
    "ancestral": PriorSampling(num_steps=5),
    "large": PriorSampling(num_steps=5, variance="large"),
    "ddim": PriorSampling(num_steps=5, sampler="ddim", eta=0.5),
    "dpm_solver": PriorSampling(num_steps=5, sampler="dpm_solver"),
    "guided": PriorSampling(num_steps=5, guidance_scale=2.0, guidance_rescale=0.7),
}


def t5(text: Tensor, states: Tensor, lengths: Tensor) -> TextFeatures:
    return TextFeatures(text, {"t5": TextStates(states, lengths)})


def sample(prior: Prior, text: TextFeatures, seeds: list[int], *, guidance: float = 1.0) -> Tensor:
    return prior.sample(text, seeds, PriorSampling(num_steps=5, guidance_scale=guidance))


@pytest.mark.parametrize("name", RUNS)
def test_training_repeats_itself_and_keeps_its_golden_losses(name: str) -> None:
    """Bit-equal on the kind of machine that wrote the golden file; to 1e-5 on others, whose kernels round otherwise."""
    losses, golden = losses_of(build_prior(**RUNS[name])), json.loads(GOLDEN.read_text())
    assert losses == losses_of(build_prior(**RUNS[name]))
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(golden["losses"][name], rel=1e-5)
    if machine() == golden["machine"]:
        assert losses == golden["losses"][name]


def test_the_baseline_is_shifted_diffusion_from_the_standard_gaussian() -> None:
    bank = GaussianBank(torch.zeros(1, DIM), torch.ones(1, DIM), kappa=1.0)
    baseline = build_prior(kind="gaussian")
    torch.manual_seed(0)
    shifted = DiffusionPrior(ShiftedPriorSpec(DIM, network=NETWORK), bank)
    shifted.measure(*make_pairs())
    assert losses_of(shifted) == losses_of(baseline)
    text = TextFeatures(make_pairs(3)[1])
    for sampling in SAMPLINGS.values():
        assert torch.equal(*(prior.sample(text, [1, 2, 3], sampling) for prior in (shifted, baseline)))


@pytest.mark.parametrize("target", ["sample", "noise", "velocity"])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_sample_depends_on_its_own_caption_and_seed_alone(name: str, target: str) -> None:
    prior, text = build_prior(trained=True, target=target), make_pairs(6)[1]
    sampling = SAMPLINGS[name]
    together = prior.sample(TextFeatures(text), [10, 11, 12, 13, 14, 15], sampling)
    again = prior.sample(TextFeatures(text), [10, 11, 12, 13, 14, 15], sampling)
    assert torch.equal(together, again)
    reordered = prior.sample(TextFeatures(text[[4, 1]]), [14, 11], sampling)
    size = float(together.abs().max())
    torch.testing.assert_close(reordered, together[[4, 1]], rtol=1e-5, atol=1e-5 * size)
    other_seed = prior.sample(TextFeatures(text[:1]), [99], sampling)
    other_caption = prior.sample(TextFeatures(text[1:2]), [10], sampling)
    assert (other_seed - together[:1]).abs().max() > 0.01
    assert (other_caption - together[:1]).abs().max() > 0.01


@pytest.mark.parametrize("target", ["sample", "noise", "velocity"])
def test_sampling_is_the_samplers_over_the_networks_own_forward(target: str) -> None:
    """The captions read once and reused at every step, against the whole network asked anew at every step."""
    prior, text = build_prior(trained=True, target=target), make_pairs(3)[1]
    index, mean, std = prior.bank(text)
    gaussian, process, scale = Gaussian(mean, std), prior.process, prior.image_scale
    scaled = TextFeatures((text - prior.text_scale.mean) / prior.text_scale.std)

    def z_0(z_t: Tensor, t: Tensor, *, drop: bool) -> Tensor:
        abar = process.alpha_bar[t].float()[:, None]
        centre = abar.sqrt() * scale.mean + (1 - abar.sqrt()) * mean
        noisy = (z_t - centre) / (abar * scale.std**2 + (1 - abar) * std**2).sqrt()
        output = prior.network(noisy, t, index, scaled, torch.full((3,), drop))
        predicted = output_scale(process, target, t, gaussian, m=scale.mean, s=scale.std)(output)  # type: ignore[arg-type]
        return sample_from_target(process, target, predicted, z_t, t, gaussian=gaussian)  # type: ignore[arg-type]

    def estimate(z_t: Tensor, t: Tensor) -> Estimate:
        unconditional = z_0(z_t, t, drop=True)
        return Estimate(unconditional + 2.5 * (z_0(z_t, t, drop=False) - unconditional))

    streams = SeededNoise([4, 5, 6])
    steps, sampling = process.steps(5), PriorSampling(num_steps=5, guidance_scale=2.5)
    with torch.no_grad():
        expected = run_sampler(
            process, estimate, lambda: streams.normal((DIM,)), steps, solver=sampling, gaussian=gaussian
        )
    found = prior.sample(TextFeatures(text), [4, 5, 6], sampling)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_sampling_starts_from_the_captions_gaussian_with_noise() -> None:
    prior, text = build_prior(), make_pairs(4000)[1][:1].expand(4000, DIM)
    settings = prior.spec
    start = prior.sample(TextFeatures(text), range(4000), PriorSampling(num_steps=1, guidance_scale=1.0))
    assert torch.equal(start[0], start[1])  # the untrained prior answers with the mean, whatever the noise
    gaussian = prior.bank.moments(prior.bank.select(text[:1]))
    random_inputs = torch.stack([torch.randn(DIM, generator=torch.Generator().manual_seed(s)) for s in range(4000)])
    z_T = gaussian[0] + gaussian[1] * random_inputs
    torch.testing.assert_close(z_T.std(0), gaussian[1][0], rtol=0.1, atol=0)
    assert settings.num_gaussians == 4


@pytest.mark.parametrize("name", SAMPLINGS)
def test_sampling_can_be_watched(name: str) -> None:
    prior, text = build_prior(trained=True), TextFeatures(make_pairs(3)[1])
    seen: list[tuple[int, float, Tensor, Tensor]] = []
    watched = prior.sample(text, [1, 2, 3], SAMPLINGS[name], on_step=lambda *step: seen.append(step))
    assert torch.equal(watched, prior.sample(text, [1, 2, 3], SAMPLINGS[name]))
    assert [(n, t) for n, t, _, _ in seen] == list(enumerate([1000, 800, 600, 400, 200]))
    torch.testing.assert_close(seen[-1][3], watched, rtol=1e-4, atol=1e-4)  # the last step leads to the prediction


def test_guidance_reaches_every_dimension() -> None:
    prior, text = build_prior(trained=True), TextFeatures(make_pairs(5)[1])
    plain = prior.sample(text, range(5), PriorSampling(num_steps=1, guidance_scale=1.0))
    none = prior.sample(text, range(5), PriorSampling(num_steps=1, guidance_scale=0.0))
    guided = prior.sample(text, range(5), PriorSampling(num_steps=1, guidance_scale=3.0))
    torch.testing.assert_close(guided, none + 3 * (plain - none), rtol=1e-4, atol=1e-4)
    assert ((guided - plain).abs() > 1e-4).all()


def test_padding_never_matters() -> None:
    prior = build_prior(WITH_STATES, trained=True)
    text = make_pairs(3)[1]
    states = torch.randn(3, 9, STATE_DIM, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([4, 9, 0])
    spoiled = states.clone()
    spoiled[0, 4:], spoiled[2] = float("nan"), float("inf")
    longer = torch.cat([states, torch.full((3, 3, STATE_DIM), 7.0)], dim=1)
    expected = sample(prior, t5(text, states, lengths), [1, 2, 3], guidance=2.0)
    for changed in (spoiled, longer):
        found = sample(prior, t5(text, changed, lengths), [1, 2, 3], guidance=2.0)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    alone = sample(prior, t5(text[:1], states[:1, :4], lengths[:1]), [1], guidance=2.0)
    torch.testing.assert_close(alone, expected[:1], rtol=1e-5, atol=1e-5)
    fewer = sample(prior, t5(text, states, torch.tensor([3, 9, 0])), [1, 2, 3], guidance=2.0)
    assert (fewer[0] - expected[0]).abs().max() > 1e-4


def test_a_dropped_caption_has_no_effect() -> None:
    prior = build_prior(WITH_STATES, kind="gaussian", trained=True)
    image, text = make_pairs(4)
    random_inputs = training_random_inputs(prior.spec, range(4), text_dropout=1.0)
    states = torch.randn(4, 5, STATE_DIM, generator=torch.Generator().manual_seed(4))
    one = prior(training_batch(image, t5(text, states, torch.full((4,), 5)), random_inputs))["loss"]
    other = prior(training_batch(image, t5(text + 1, states * 2, torch.full((4,), 2)), random_inputs))["loss"]
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("learnable", [False, True])
def test_gaussians_and_scales_travel_with_the_weights(learnable: bool) -> None:
    prior = build_prior(learnable=learnable, trained=True, selection="samples")
    for parameter in prior.bank.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    copy = read_spec(json.loads(json.dumps(prior.spec.to_dict()))).build()
    copy.load_state_dict(prior.state_dict())
    text = TextFeatures(make_pairs(2)[1])
    assert torch.equal(sample(copy.eval(), text, [1, 2]), sample(prior, text, [1, 2]))


def test_wrong_use_is_refused() -> None:
    prior, text = build_prior(), TextFeatures(make_pairs(2)[1])
    with pytest.raises(ValueError, match="2 captions but 1 seeds"):
        sample(prior, text, [1])
    with pytest.raises(ValueError, match=r"network was built for \{\}"):
        sample(prior, t5(text.embedding, torch.zeros(2, 3, 5), torch.tensor([1, 2])), [1, 2])
    with pytest.raises(ValueError, match=r"2 text embeddings, but 2 states and 3 lengths of t5"):
        t5(text.embedding, torch.zeros(2, 3, 5), torch.ones(3))
    many = t5(text.embedding, torch.zeros(2, 13, STATE_DIM), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="its max_length is 12"):
        sample(build_prior(WITH_STATES), many, [1, 2])
    with pytest.raises(ValueError, match="bank holds 1 Gaussians"):
        DiffusionPrior(ShiftedPriorSpec(DIM, 4, network=NETWORK), GaussianBank.standard(DIM))
    with pytest.raises(ValueError, match="embeddings of width 7 were given, but the prior was built for width 8"):
        sample(prior, TextFeatures(torch.ones(1, 7)), [1])
    with pytest.raises(ValueError, match="1 of 2 embeddings hold numbers that are not finite"):
        sample(prior, TextFeatures(torch.tensor([[1.0] * DIM, [float("nan")] * DIM])), [1, 2])
    with pytest.raises(ValueError, match="3 of 3 embeddings hold"):
        prior.measure(torch.full((3, DIM), float("inf")), text.embedding)
