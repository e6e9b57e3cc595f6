"""The prior as a whole: repeatable training, samples that depend on their own caption and seed alone, guidance."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.gaussians import GaussianBank
from models.priors import (
    DiffusionPrior,
    DiffusionPriorSettings,
    PriorSampling,
    TextFeatures,
    TextStates,
    TextStateSettings,
    TransformerSettings,
    settings_from_json,
    training_batch,
    training_draws,
)

DIM, STATE_DIM = 8, 6
GOLDEN = Path(__file__).parent / "golden" / "prior_losses.json"
NETWORK = TransformerSettings(width=16, num_layers=2, num_heads=2)
WITH_STATES = TransformerSettings(
    width=16, num_layers=2, num_heads=2, text_states={"t5": TextStateSettings(STATE_DIM, 12)}
)


def make_bank() -> GaussianBank:
    generator = torch.Generator().manual_seed(1)
    return GaussianBank(
        torch.randn(4, DIM, generator=generator), torch.rand(4, DIM, generator=generator) + 0.2, kappa=5
    )


def make_prior(
    kind: str = "shifted", network: TransformerSettings = NETWORK, *, trained: bool = False
) -> DiffusionPrior:
    bank = make_bank() if kind == "shifted" else GaussianBank.standard(DIM)
    torch.manual_seed(0)
    prior = DiffusionPrior(DiffusionPriorSettings(kind, DIM, bank.num_gaussians, network=network), bank)  # type: ignore[arg-type]
    prior.measure(*make_pairs())
    if trained:  # the answer starts at zero, which would hide every difference
        torch.nn.init.normal_(prior.network.answer.weight, std=0.3)
    return prior.eval()


def make_pairs(count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(count, DIM, generator=generator) * 3 + 1
    return image, image.roll(1, 1) + 0.1 * torch.randn(count, DIM, generator=generator)


def losses_of(prior: DiffusionPrior, steps: int = 20) -> list[float]:
    image, text = make_pairs()
    optimizer = torch.optim.AdamW(prior.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        draws = training_draws(prior.settings, range(step * 64, step * 64 + 64), text_dropout=0.1)
        loss = prior(training_batch(image, TextFeatures(text), draws))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def t5(text: Tensor, states: Tensor, lengths: Tensor) -> TextFeatures:
    return TextFeatures(text, {"t5": TextStates(states, lengths)})


def sample(prior: DiffusionPrior, text: TextFeatures, seeds: list[int], *, guidance: float = 1.0) -> Tensor:
    return prior.sample(text, seeds, PriorSampling(num_steps=5, guidance_scale=guidance))


@pytest.mark.parametrize("kind", ["shifted", "gaussian"])
def test_training_repeats_itself_and_keeps_its_golden_losses(kind: str) -> None:
    """Bit-equal twice on one machine; to 1e-5 between machines, whose CPU kernels round differently."""
    losses = losses_of(make_prior(kind))
    assert losses == losses_of(make_prior(kind))
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())[kind], rel=1e-5)


def test_the_baseline_is_shifted_diffusion_from_the_standard_gaussian() -> None:
    bank = GaussianBank(torch.zeros(1, DIM), torch.ones(1, DIM), kappa=1.0)
    baseline = make_prior("gaussian")
    torch.manual_seed(0)
    shifted = DiffusionPrior(DiffusionPriorSettings("shifted", DIM, network=NETWORK), bank)
    shifted.measure(*make_pairs())
    assert losses_of(shifted) == losses_of(baseline)
    text = TextFeatures(make_pairs(3)[1])
    assert torch.equal(sample(shifted, text, [1, 2, 3]), sample(baseline, text, [1, 2, 3]))


def test_a_sample_depends_on_its_own_caption_and_seed_alone() -> None:
    prior, text = make_prior(trained=True), make_pairs(6)[1]
    together = sample(prior, TextFeatures(text), [10, 11, 12, 13, 14, 15])
    reordered = sample(prior, TextFeatures(text[[4, 1]]), [14, 11])
    torch.testing.assert_close(reordered, together[[4, 1]], rtol=1e-5, atol=1e-5)
    other = sample(prior, TextFeatures(text[:1]), [99])
    assert (other - together[:1]).abs().max() > 0.01


def test_sampling_starts_from_the_captions_gaussian_with_noise() -> None:
    prior, text = make_prior(), make_pairs(4000)[1][:1].expand(4000, DIM)
    settings = prior.settings
    start = prior.sample(TextFeatures(text), range(4000), PriorSampling(num_steps=1, guidance_scale=1.0))
    assert torch.equal(start[0], start[1])  # the untrained prior answers with the mean, whatever the noise
    gaussian = prior.bank.moments(prior.bank.select(text[:1]))
    draws = torch.stack([torch.randn(DIM, generator=torch.Generator().manual_seed(s)) for s in range(4000)])
    z_T = gaussian[0] + gaussian[1] * draws
    torch.testing.assert_close(z_T.std(0), gaussian[1][0], rtol=0.1, atol=0)
    assert settings.num_gaussians == 4


def test_the_gaussian_is_chosen_by_cosine_with_the_caption() -> None:
    bank = GaussianBank(torch.tensor([[10.0, 0.0], [0.0, 0.1]]), torch.ones(2, 2), kappa=5)
    assert bank.select(torch.tensor([[1.0, 2.0], [2.0, 1.0]])).tolist() == [1, 0]
    with torch.autocast("cpu", torch.bfloat16):
        assert bank.select(torch.tensor([[1.0, 1.001], [1.001, 1.0]])).tolist() == [1, 0]


def test_guidance_reaches_every_dimension() -> None:
    prior, text = make_prior(trained=True), TextFeatures(make_pairs(5)[1])
    plain = prior.sample(text, range(5), PriorSampling(num_steps=1, guidance_scale=1.0))
    none = prior.sample(text, range(5), PriorSampling(num_steps=1, guidance_scale=0.0))
    guided = prior.sample(text, range(5), PriorSampling(num_steps=1, guidance_scale=3.0))
    torch.testing.assert_close(guided, none + 3 * (plain - none), rtol=1e-4, atol=1e-4)
    assert ((guided - plain).abs() > 1e-4).all()


def test_padding_never_matters() -> None:
    prior = make_prior(network=WITH_STATES, trained=True)
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
    prior = make_prior("gaussian", WITH_STATES, trained=True)
    image, text = make_pairs(4)
    draws = training_draws(prior.settings, range(4), text_dropout=1.0)
    states = torch.randn(4, 5, STATE_DIM, generator=torch.Generator().manual_seed(4))
    one = prior(training_batch(image, t5(text, states, torch.full((4,), 5)), draws))["loss"]
    other = prior(training_batch(image, t5(text + 1, states * 2, torch.full((4,), 2)), draws))["loss"]
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_gaussians_and_scales_travel_with_the_weights() -> None:
    prior = make_prior(trained=True)
    blank = GaussianBank(torch.zeros(4, DIM), torch.ones(4, DIM), kappa=1)
    copy = DiffusionPrior(settings_from_json(json.loads(json.dumps(prior.settings.to_json()))), blank)
    copy.load_state_dict(prior.state_dict())
    text = TextFeatures(make_pairs(2)[1])
    assert torch.equal(sample(copy.eval(), text, [1, 2]), sample(prior, text, [1, 2]))


def test_wrong_use_is_refused() -> None:
    prior, text = make_prior(), TextFeatures(make_pairs(2)[1])
    with pytest.raises(ValueError, match="2 captions but 1 seeds"):
        sample(prior, text, [1])
    with pytest.raises(ValueError, match=r"network was built for \{\}"):
        sample(prior, t5(text.embedding, torch.zeros(2, 3, 5), torch.tensor([1, 2])), [1, 2])
    with pytest.raises(ValueError, match=r"2 text embeddings, but 2 states and 3 lengths of t5"):
        t5(text.embedding, torch.zeros(2, 3, 5), torch.ones(3))
    many = t5(text.embedding, torch.zeros(2, 13, STATE_DIM), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="its max_length is 12"):
        sample(make_prior(network=WITH_STATES), many, [1, 2])
    with pytest.raises(ValueError, match="bank holds 1 Gaussians"):
        DiffusionPrior(DiffusionPriorSettings("shifted", DIM, 4, network=NETWORK), GaussianBank.standard(DIM))
