"""The one-step prior's losses against direct formulas, and what its networks do."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.priors.projection.model import ProjectionPrior, contrastive_loss
from models.priors.projection.spec import ProjectionPriorSpec
from models.priors.spec import PriorSampling, TextStateSpec, TransformerSpec
from models.priors.text import TextFeatures
from models.priors.training import training_batch, training_random_inputs

DIM = 4
NETWORK = TransformerSpec(width=16, num_layers=2, num_heads=2)


def make_pairs(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(count, DIM, generator=generator) * torch.tensor([5.0, 1, 1, 2]) + 1
    return image, image.flip(1) + 0.1 * torch.randn(count, DIM, generator=generator)


def make_prior(**changes: Any) -> ProjectionPrior:
    torch.manual_seed(0)
    spec = ProjectionPriorSpec(DIM, network=NETWORK, **changes)
    return ProjectionPrior.for_training(spec, *make_pairs(200), None)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def test_the_contrastive_loss_is_its_formula() -> None:
    predicted, texts = make_pairs(5)
    found = contrastive_loss(predicted, texts, temperature=0.1)
    for i in range(5):
        terms = [math.exp(cosine(predicted[i], texts[j]) / 0.1) for j in range(5)]
        assert float(found[i]) == pytest.approx(-math.log(terms[i] / sum(terms)), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("half", [False, True])
def test_images_of_one_caption_are_no_negatives_of_one_another(half: bool) -> None:
    predicted, texts = make_pairs(5)
    texts = torch.cat([texts, 3 * texts[:1]])  # the length of an embedding says nothing
    predicted = torch.cat([predicted, predicted[:1]])
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = contrastive_loss(predicted, texts, temperature=0.1)
    torch.testing.assert_close(found[0], contrastive_loss(predicted[:5], texts[:5], temperature=0.1)[0])
    torch.testing.assert_close(found[5], found[0])


def test_the_contrast_is_the_same_under_autocast() -> None:
    """At the paper's temperature, with captions that are alike but not the same, some of which several images share."""
    predicted, texts = make_pairs(12)
    texts = torch.cat([texts[:1] + 0.01 * texts[:6], texts])[torch.arange(24) % 18]
    predicted = torch.cat([predicted, predicted.flip(0)])
    expected = contrastive_loss(predicted, texts, temperature=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_loss(predicted, texts, temperature=0.01)
        rounded = contrastive_loss(predicted.bfloat16(), texts, temperature=0.01)
    assert found.dtype == rounded.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(rounded, contrastive_loss(predicted.bfloat16().float(), texts, temperature=0.01))


@pytest.mark.parametrize("form", ["mlp", "transformer"])
def test_the_loss_is_squared_error_and_contrast(form: str) -> None:
    prior = make_prior(form=form, contrastive_weight=0.3, temperature=0.2)
    torch.nn.init.normal_(prior.network.output.weight)
    image, text = make_pairs()
    inputs = {"drop_text": torch.arange(12) == 5}
    found = prior(training_batch(image, TextFeatures(text), inputs))
    predicted = prior.sample(TextFeatures(text), range(12), PriorSampling())
    sigma = make_pairs(200)[0].std(0, correction=0).square().mean().sqrt()
    expected = ((image - predicted) / sigma).square().mean(1)
    contrast = contrastive_loss(predicted, text, temperature=0.2)
    kept = torch.arange(12) != 5
    torch.testing.assert_close(found["projection_loss"][kept], expected[kept], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["loss"][kept], (expected + 0.3 * contrast)[kept], rtol=1e-4, atol=1e-5)
    assert float(found["contrastive_loss"][5].detach()) == 0
    assert float(found["loss"][5].detach()) == pytest.approx(float(found["projection_loss"][5].detach()))


@pytest.mark.parametrize("form", ["mlp", "transformer"])
def test_it_begins_at_the_mean_and_learns(form: str) -> None:
    """Without contrast, since these captions lie elsewhere than their images; on pairs that it has not seen."""
    prior = make_prior(form=form, contrastive_weight=0.0)
    image, text = make_pairs(200)
    first = prior.sample(TextFeatures(text), range(200), PriorSampling())
    torch.testing.assert_close(first, image.mean(0).expand_as(first))
    optimizer = torch.optim.Adam(prior.parameters(), lr=3e-3)
    for step in range(150):
        inputs = training_random_inputs(prior.spec, range(step * 200, step * 200 + 200), text_dropout=0.1)
        loss = prior(training_batch(image, TextFeatures(text), inputs))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out, captions = (rows[200:] for rows in make_pairs(300))
    last = prior.eval().sample(TextFeatures(captions), range(100), PriorSampling())
    assert float((last - held_out).square().mean()) < 0.3 * float((image.mean(0) - held_out).square().mean())


def test_token_states_are_read_by_the_transformer_alone() -> None:
    network = TransformerSpec(width=16, num_layers=1, num_heads=2, text_states={"t5": TextStateSpec(3, 5)})
    assert ProjectionPriorSpec(DIM, network=network).build().network.text_tokens.states["t5"].in_features == 3
    with pytest.raises(ValueError, match=r"form: found mlp with text states of t5: expected none"):
        ProjectionPriorSpec(DIM, network=network, form="mlp")
