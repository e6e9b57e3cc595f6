"""The autoregressive prior: quantising loses little, and sampling follows what was learned."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from models.priors.autoregressive.model import AutoregressivePrior, ComponentBuckets
from models.priors.autoregressive.spec import AutoregressivePriorSpec
from models.priors.spec import PriorSampling, TextStateSpec, TransformerSpec
from models.priors.text import TextFeatures, TextStates
from models.priors.training import training_batch, training_random_inputs

DIM, COMPONENTS, BUCKETS, ROWS = 6, 4, 32, 200
NETWORK = TransformerSpec(32, 2, 2, text_states={"t5": TextStateSpec(5, 4)})
SETTINGS = AutoregressivePriorSpec(DIM, COMPONENTS, NETWORK, BUCKETS)


def make_images(rows: int = ROWS) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    spread = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.3, 0.1])
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0]
    return (torch.randn(rows, DIM, generator=generator) * spread) @ rotation.T + 2


def make_text(rows: int = ROWS, seed: int = 2) -> TextFeatures:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.arange(rows) % 5  # 0 ... 4 states
    states = TextStates(torch.randn(rows, 4, 5, generator=generator), lengths)
    return TextFeatures(make_images(rows).roll(1, 1) + torch.randn(rows, DIM, generator=generator), {"t5": states})


def make_prior(settings: AutoregressivePriorSpec = SETTINGS) -> AutoregressivePrior:
    torch.manual_seed(0)
    prior = AutoregressivePrior(settings)
    prior.measure(make_images(), make_text().embedding)
    return prior.eval()


def make_buckets(num_components: int = COMPONENTS) -> ComponentBuckets:
    buckets = ComponentBuckets(DIM, num_components, BUCKETS)
    buckets.measure(make_images())
    return buckets


def part_of(text: TextFeatures, rows: slice) -> TextFeatures:
    states = {name: TextStates(part.values[rows], part.lengths[rows]) for name, part in text.states.items()}
    return TextFeatures(text.embedding[rows], states)


def loss_of(prior: AutoregressivePrior, image: Tensor, text: TextFeatures, dropout: float = 0.0) -> Tensor:
    random_inputs = training_random_inputs(prior.spec, range(len(text)), text_dropout=dropout)
    return prior(training_batch(image, text, random_inputs))["loss"]


def test_components_are_the_singular_vectors_in_order() -> None:
    image = make_images().double()
    buckets = make_buckets()
    _, singular, vectors = torch.linalg.svd(image - image.mean(0))
    assert_close(buckets.stds, singular[:COMPONENTS] / ROWS**0.5, rtol=1e-9, atol=0)
    alike = (buckets.directions * vectors[:COMPONENTS]).sum(1).abs()
    assert_close(alike, torch.ones(COMPONENTS, dtype=torch.float64), rtol=0, atol=1e-9)
    assert (buckets.directions.gather(1, buckets.directions.abs().argmax(1, keepdim=True)) > 0).all()


def test_nothing_beyond_half_a_bucket_is_lost_inside_the_range() -> None:
    image, buckets = make_images(), make_buckets(DIM)
    inside = ((image.double() - buckets.mean) @ buckets.directions.T).abs() <= 4 * buckets.stds
    error = (buckets.decode(buckets.encode(image)) - image).double() @ buckets.directions.T
    half = 4 * buckets.stds / BUCKETS
    assert inside.float().mean() > 0.99
    assert ((error.abs() <= half + 1e-5) | ~inside).all()
    assert (error.abs() > half / 2).float().mean() > 0.25  # the bound is no accident of finer buckets


def test_every_bucket_comes_back_and_outliers_go_to_the_ends() -> None:
    buckets = make_buckets()
    wanted = torch.arange(BUCKETS)[:, None].expand(-1, COMPONENTS)
    assert torch.equal(buckets.encode(buckets.decode(wanted)), wanted)
    far = (buckets.mean + 1e6 * buckets.directions[:1]).float()
    assert buckets.encode(far)[0, 0] == BUCKETS - 1
    assert buckets.encode(2 * buckets.mean.float() - far)[0, 0] == 0


def test_untrained_loss_is_about_the_entropy_of_all_buckets() -> None:
    loss = loss_of(make_prior(), make_images(), make_text())
    assert loss.shape == (ROWS,)
    assert float(loss.detach().mean()) == pytest.approx(math.log(BUCKETS), rel=0.15)


def test_no_bucket_is_predicted_from_itself_or_a_later_one() -> None:
    prior, text = make_prior(), make_text(3)
    keep = torch.zeros(3, dtype=torch.bool)
    buckets = torch.randint(0, BUCKETS, (3, COMPONENTS + 1), generator=torch.Generator().manual_seed(0))
    before = prior.network(buckets, text, keep)
    for position in range(COMPONENTS + 1):
        changed = buckets.clone()
        changed[:, position] = (changed[:, position] + 1) % BUCKETS
        after = prior.network(changed, text, keep)
        assert_close(after[:, : position + 1], before[:, : position + 1])
        if position < COMPONENTS:
            assert (after[:, position + 1] - before[:, position + 1]).abs().max() > 1e-4


def test_reading_bucket_by_bucket_gives_the_same_logits() -> None:
    prior, text = make_prior(), make_text(5)
    buckets = torch.randint(0, BUCKETS, (5, COMPONENTS + 1), generator=torch.Generator().manual_seed(0))
    keep = torch.zeros(5, dtype=torch.bool)
    captioned, plain = (prior.network(buckets, text, drop) for drop in (keep, ~keep))
    with torch.no_grad():
        cache, logits = prior.network.read(text, guided=True)
        assert_close(logits, captioned[:, 0], rtol=0, atol=1e-5)
        for position in range(COMPONENTS):
            logits = prior.network.read_bucket(cache, buckets[:, position], position)
            assert_close(logits, torch.cat([captioned[:, position + 1], plain[:, position + 1]]), rtol=0, atol=1e-5)


def test_dropped_captions_carry_no_information() -> None:
    prior, image, text, other = make_prior(), make_images(20), make_text(20), make_text(20, seed=9)
    keep = torch.zeros(20, dtype=torch.bool)
    low, high = (
        torch.cat([torch.full((20, 1), similarity), prior.components.encode(image)], dim=1)
        for similarity in (0, BUCKETS - 1)
    )
    assert_close(prior.network(low, text, ~keep), prior.network(high, other, ~keep))
    for buckets, caption in ((high, text), (low, other)):
        assert (prior.network(buckets, caption, keep) - prior.network(low, text, keep)).abs().max() > 1e-3


def test_dropout_of_the_random_inputs_counts() -> None:
    prior, image, text = make_prior(), make_images(), make_text()
    assert not torch.allclose(loss_of(prior, image, text), loss_of(prior, image, text, dropout=1.0), atol=1e-3)


def test_a_sample_depends_on_its_caption_and_seed_alone() -> None:
    prior, text = make_prior(), make_text(6)
    seeds = [5, 6, 7, 8, 9, 10]
    for sampling in (PriorSampling(), PriorSampling(guidance_scale=3.0)):
        together = prior.sample(text, seeds, sampling)
        assert together.shape == (6, DIM)
        for row in (0, 4):
            one = slice(row, row + 1)
            assert_close(prior.sample(part_of(text, one), seeds[one], sampling), together[one], rtol=0, atol=1e-5)
        assert not torch.allclose(prior.sample(text, [seed + 1 for seed in seeds], sampling), together)


def trained(image: Tensor, text: TextFeatures, settings: AutoregressivePriorSpec, steps: int) -> AutoregressivePrior:
    torch.manual_seed(0)
    prior = AutoregressivePrior(settings)
    prior.measure(image, text.embedding)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=3e-3)
    for step in range(steps):
        random_inputs = training_random_inputs(
            settings, [step * len(text) + row for row in range(len(text))], text_dropout=0.2
        )
        optimizer.zero_grad()
        prior(training_batch(image, text, random_inputs))["loss"].mean().backward()
        optimizer.step()
    return prior.eval()


def test_samples_have_the_distribution_of_what_was_learned() -> None:
    """Two captions; the first coordinate of an image is 2 or -2, whatever the caption, the second mostly tells it."""
    first, second, first_axis, other_axis = torch.eye(DIM)[[0, 1, 0, 2]]
    signs = [(x, y) for x in (1, -1) for y in (1, 1, 1, -1)]
    image = torch.stack([2 * x * first + y * trajectory * second for trajectory in (1, -1) for x, y in signs])
    captions = 3 * torch.stack([first_axis] * len(signs) + [other_axis] * len(signs))
    settings = replace(SETTINGS, num_components=2, network=TransformerSpec(32, 2, 2))
    prior = trained(image.repeat(4, 1), TextFeatures(captions.repeat(4, 1)), settings, steps=200)
    text, seeds = TextFeatures(captions[[0, -1]].repeat(300, 1)), range(600)
    half_bucket = 4 * 2 / BUCKETS
    for scale, fraction in ((1.0, 3 / 4), (3.0, 27 / 28)):  # p^3 / q^2, q = 1/2 without caption: 3^3 to 1
        generated = prior.sample(text, seeds, PriorSampling(guidance_scale=scale)).unflatten(0, (300, 2))
        found = (generated[:, :, 1] * torch.tensor([1, -1]) > 0).float().mean(0)
        assert (found - fraction).abs().max() < 0.1
        assert ((generated[:, :, 0].abs() - 2).abs() <= half_bucket + 0.05).float().mean() > 0.95
        positive = (generated[:, :, 0] > 0).float().mean(0)
        assert positive[0] > 0.95  # there it makes caption and image alike, of which the better half is asked for
        assert 0.2 < positive[1] < 0.8  # here it does not


def test_as_many_seeds_as_captions() -> None:
    with pytest.raises(ValueError, match="6 captions but 2 seeds"):
        make_prior().sample(make_text(6), [1, 2], PriorSampling())


def test_more_components_than_dimensions() -> None:
    with pytest.raises(ValueError, match="num_components: found 7: expected 1 to 6"):
        AutoregressivePrior(replace(SETTINGS, num_components=DIM + 1))


def test_too_few_rows_for_the_components() -> None:
    with pytest.raises(ValueError, match="num_components is 4, but 4 training embeddings span at most 3"):
        make_buckets().measure(make_images(4))


def test_embeddings_of_another_clip() -> None:
    prior = make_prior()
    for work in (
        lambda: prior.measure(torch.randn(20, DIM + 1), make_text().embedding),
        lambda: prior.sample(TextFeatures(torch.randn(2, DIM + 1)), [1, 2], PriorSampling()),
        lambda: loss_of(prior, make_images(2), TextFeatures(torch.randn(2, DIM + 1))),
    ):
        with pytest.raises(ValueError, match="width 7 were given, but the prior was built for width 6"):
            work()


def test_embeddings_that_are_not_finite() -> None:
    prior, image, text = make_prior(), make_images(20), make_text(2)
    image[3, 1] = float("nan")
    text.embedding[0, 0] = float("inf")
    with pytest.raises(ValueError, match="1 of 20 embeddings hold numbers that are not finite"):
        prior.measure(image, make_text().embedding)
    with pytest.raises(ValueError, match="1 of 2 embeddings hold numbers that are not finite"):
        prior.sample(text, [1, 2], PriorSampling())


def test_equal_rows_leave_finite_ranges() -> None:
    buckets = ComponentBuckets(DIM, COMPONENTS, BUCKETS)
    image = torch.full((20, DIM), 3.0)
    buckets.measure(image)
    assert buckets.stds.min() > 0
    assert buckets.decode(buckets.encode(image)).isfinite().all()


def test_statistics_keep_their_precision_and_travel_in_the_state() -> None:
    prior = make_prior().to(torch.bfloat16)
    assert prior.components.directions.dtype == torch.float64
    other = AutoregressivePrior(SETTINGS)
    other.load_state_dict(make_prior().state_dict())
    assert_close(other.components.stds, prior.components.stds, rtol=0, atol=0)
