"""The prior that answers with the text embedding."""

import pytest
import torch

from models.priors.identity.spec import IdentityPriorSpec
from models.priors.spec import PriorSampling
from models.priors.text import TextFeatures
from models.priors.training import training_batch, training_random_inputs

SETTINGS = IdentityPriorSpec(4)


def test_it_returns_the_text_embedding() -> None:
    prior = SETTINGS.build()
    text = torch.randn(3, 4).half()
    prior.measure(torch.randn(5, 4), torch.randn(5, 4))
    found = prior.sample(TextFeatures(text), [1, 2, 3], PriorSampling(num_steps=7, guidance_scale=3.0))
    assert torch.equal(found, text.float())
    assert not prior.state_dict()


def test_its_loss_is_the_cosine_distance() -> None:
    image = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    text = torch.tensor([[3.0, 0, 0, 0], [0, 0, 2, 0], [-1, 0, 0, 0]])
    random_inputs = training_random_inputs(SETTINGS, [1, 2, 3], text_dropout=0.1)
    loss = SETTINGS.build()(training_batch(image, TextFeatures(text), random_inputs))["loss"]
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 2.0]))


def test_captions_and_embeddings_that_do_not_fit_are_refused() -> None:
    prior = SETTINGS.build()
    with pytest.raises(ValueError, match="3 captions but 1 seeds"):
        prior.sample(TextFeatures(torch.zeros(3, 4)), [1], PriorSampling())
    with pytest.raises(ValueError, match="width 5 were given, but the prior was built for width 4"):
        prior.sample(TextFeatures(torch.zeros(1, 5)), [1], PriorSampling())
