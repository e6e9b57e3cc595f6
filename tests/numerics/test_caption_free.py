"""Priors that learn without captions: what they sample, and that captions begin from there."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.priors.base import Prior
from models.priors.flow.spec import FlowPriorSpec
from models.priors.registry import SPECS
from models.priors.spec import LearnedFrom, PriorSampling, TextStateSpec, TransformerSpec
from models.priors.text import TextFeatures, TextStates
from models.priors.training import training_batch, training_random_inputs

DIM = 6
NETWORK = TransformerSpec(width=16, num_layers=2, num_heads=2)
KINDS = ("shifted", "gaussian", "flow", "autoregressive")
MEANS = torch.eye(DIM)[:3] * 6


def images_of(count: int = 400) -> Tensor:
    """Embeddings around three means, of which half are at the first, three tenths at the second."""
    generator = torch.Generator().manual_seed(0)
    group = torch.tensor([0] * 5 + [1] * 3 + [2] * 2).repeat(count // 10)
    return MEANS[group] + 0.3 * torch.randn(len(group), DIM, generator=generator)


def make_prior(kind: str, learned_from: LearnedFrom = "images_then_pairs", **changes: Any) -> Prior:
    torch.manual_seed(0)
    extra: dict[str, Any] = {"num_components": 4, "num_buckets": 32} if kind == "autoregressive" else {}
    extra |= {"num_gaussians": 3} if kind == "shifted" else {}
    spec = SPECS[kind](embed_dim=DIM, learned_from=learned_from, **{"network": NETWORK} | extra | changes)
    found: type[Prior] = spec.model_class
    return found.for_training(spec, images_of(), images_of().flip(1), (MEANS, torch.full((3, DIM), 0.3))).eval()


def shaken(prior: Prior) -> Prior:
    """Give every weight that says nothing yet a value, but for those that wait for captions."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in prior.named_parameters():
        if not name.endswith(("text_tokens.embedding.weight", "text_tokens.embedding.bias", "similarity_gain")):
            nn.init.normal_(weight, std=0.2, generator=generator)
    return prior


@pytest.mark.parametrize("kind", KINDS)
def test_captions_begin_from_the_unconditional_distribution(kind: str) -> None:
    """For every caption the loss with it is that without it, and so is a sample where one Gaussian serves both."""
    prior, images = shaken(make_prior(kind)), images_of()
    text = TextFeatures(images + torch.randn(images.shape, generator=torch.Generator().manual_seed(2)))
    inputs = training_random_inputs(prior.spec, range(len(images)), text_dropout=0.0)
    assert not inputs["drop_text"].any()
    with_caption = prior(training_batch(images, text, inputs))["loss"]
    without = prior(training_batch(images, text, inputs | {"drop_text": ~inputs["drop_text"]}))["loss"]
    torch.testing.assert_close(with_caption, without, rtol=1e-5, atol=1e-6)
    if kind == "shifted":
        return
    sampling = PriorSampling(num_steps=4)
    unconditional = prior.sample_unconditional(range(8), sampling)
    torch.testing.assert_close(prior.sample(TextFeatures(text.embedding[:8]), range(8), sampling), unconditional)


@pytest.mark.parametrize("kind", ["gaussian", "flow"])
def test_guidance_takes_the_very_condition_that_was_trained_without_captions(kind: str) -> None:
    """At scale 0 only the plain half counts: it is the unconditional sample, also once captions say something."""
    prior = shaken(make_prior(kind))
    for name, weight in prior.named_parameters():
        if name.endswith("text_tokens.embedding.weight"):
            nn.init.normal_(weight)
    text = TextFeatures(images_of()[:8])
    unconditional = prior.sample_unconditional(range(8), PriorSampling(num_steps=4))
    plain = prior.sample(text, range(8), PriorSampling(num_steps=4, guidance_scale=0.0))
    torch.testing.assert_close(plain, unconditional)
    assert not torch.allclose(prior.sample(text, range(8), PriorSampling(num_steps=4)), unconditional)


def test_gaussians_are_chosen_as_often_as_images_do() -> None:
    """Five standard errors; the untrained network leaves each sample at the training mean, so the source is asked."""
    prior = make_prior("shifted", standardise="gaussian")  # an untrained network predicts the Gaussian's own mean
    found = prior.sample_unconditional(range(2000), PriorSampling(num_steps=4))
    fractions = torch.bincount(torch.cdist(found, MEANS).argmin(1), minlength=3) / 2000
    assert fractions.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=5 * (0.25 / 2000) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_of_images_alone_samples_their_distribution(kind: str) -> None:
    """After 150 steps of Adam samples have the images' mean, by group and in all, far nearer than N(0, I) would."""
    prior, images = make_prior(kind, "images").train(), images_of()
    optimizer = torch.optim.Adam(prior.parameters(), lr=3e-3)
    for step in range(150):
        rows = torch.randint(len(images), (64,), generator=torch.Generator().manual_seed(step))
        inputs = training_random_inputs(prior.spec, range(64 * step, 64 * step + 64), text_dropout=1.0)
        loss = prior(training_batch(images[rows], TextFeatures.missing(images[rows], {}), inputs))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = prior.eval().sample_unconditional(range(300), PriorSampling(num_steps=16))
    spread = float(images.std(0).norm())
    assert float((found.mean(0) - images.mean(0)).norm()) < 0.35 * spread
    assert 0.5 < float(found.var(0).sum() / images.var(0).sum()) < 1.6
    with pytest.raises(ValueError, match=r"was trained without captions \(text_dropout: 1\): expected no prompts"):
        prior.sample(TextFeatures(images[:1]), [0], PriorSampling(num_steps=1))


def test_token_states_of_no_length_are_those_of_a_dropped_caption() -> None:
    network = TransformerSpec(width=16, num_layers=1, num_heads=2, text_states={"t5": TextStateSpec(3, 4)})
    prior, images = shaken(make_prior("gaussian", network=network)), images_of()[:6]
    inputs = training_random_inputs(prior.spec, range(6), text_dropout=1.0)
    states = {"t5": TextStates(torch.randn(6, 4, 3), torch.tensor([4, 1, 2, 3, 4, 4]))}
    dropped = prior(training_batch(images, TextFeatures(images, states), inputs))["loss"]
    missing = prior(training_batch(images, TextFeatures.missing(images, {"t5": 3}), inputs))["loss"]
    torch.testing.assert_close(missing, dropped)
    assert prior.sample_unconditional([0, 1], PriorSampling(num_steps=2)).isfinite().all()


def test_a_prior_of_pairs_has_nothing_to_sample_without_captions() -> None:
    with pytest.raises(ValueError, match="trained on captioned images alone: expected one that learned without"):
        make_prior("gaussian", "pairs").sample_unconditional([0], PriorSampling())
    with pytest.raises(ValueError, match=r"FlowPriorSpec.source: found 'text': expected noise or gaussian"):
        FlowPriorSpec(DIM, source="text", learned_from="images")
