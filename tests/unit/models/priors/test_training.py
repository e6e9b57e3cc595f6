"""The random numbers and the batch of a training pass."""

import pytest
import torch

from models.priors.autoregressive.spec import AutoregressivePriorSpec
from models.priors.diffusion.spec import ShiftedPriorSpec
from models.priors.identity.spec import IdentityPriorSpec
from models.priors.spec import PriorSpec
from models.priors.text import TextFeatures, TextStates
from models.priors.training import text_of, training_batch, training_random_inputs

DIFFUSION = ShiftedPriorSpec(8, 4)
LEARNABLE = ShiftedPriorSpec(8, 4, learnable=True)


@pytest.mark.parametrize("settings", [DIFFUSION, LEARNABLE, AutoregressivePriorSpec(8, 4)])
def test_random_inputs_belong_to_their_seed(settings: PriorSpec) -> None:
    together = training_random_inputs(settings, [5, 6, 7], text_dropout=0.5)
    alone = training_random_inputs(settings, [7, 5], text_dropout=0.5)
    assert together.keys() == alone.keys()
    for name, values in together.items():
        assert torch.equal(values[[2, 0]], alone[name])
        if values.is_floating_point():  # times and dropped captions may well be the same
            assert not torch.equal(values[0], values[1])
    firsts = [
        tuple(row) for values in together.values() for row in values.reshape(3, -1)[:, :8].tolist() if values.ndim > 1
    ]
    assert len(set(firsts)) == len(firsts)  # no number is used for two things


def test_random_inputs_have_their_distributions() -> None:
    random_inputs = training_random_inputs(DIFFUSION, range(4000), text_dropout=0.1)
    assert random_inputs["time"].min() >= 1
    assert random_inputs["time"].max() <= 1000
    assert abs(float(random_inputs["time"].double().mean()) - 500.5) < 5 * 289 / 4000**0.5
    assert abs(float(random_inputs["drop_text"].double().mean()) - 0.1) < 5 * 0.3 / 4000**0.5
    assert abs(float(random_inputs["noise"].std()) - 1) < 0.03
    few = training_random_inputs(DIFFUSION, range(4), text_dropout=0.1)
    assert torch.equal(training_random_inputs(LEARNABLE, range(4), text_dropout=0.1)["noise"], few["noise"])


def test_every_prior_samples_what_it_needs() -> None:
    def names(settings: PriorSpec) -> set[str]:
        return set(training_random_inputs(settings, [1], text_dropout=0.1))

    assert names(IdentityPriorSpec(8)) == set()
    assert names(DIFFUSION) == {"drop_text", "time", "noise"}
    assert names(LEARNABLE) == {"drop_text", "time", "noise", "bank_noise"}
    assert training_random_inputs(LEARNABLE, [1, 2], text_dropout=0.1)["bank_noise"].shape == (2, 16, 8)


def test_a_batch_gives_its_captions_back() -> None:
    states = {
        name: TextStates(torch.randn(2, 3, width), torch.tensor([1, 3])) for name, width in (("t5", 4), ("clip", 5))
    }
    text = TextFeatures(torch.randn(2, 8), states)
    batch = training_batch(torch.randn(2, 8), text, {"time": torch.tensor([1, 2])})
    assert {"image_embedding", "text_embedding", "time", "text_states/t5", "text_lengths/clip"} <= set(batch)
    found = text_of(batch)
    assert torch.equal(found.embedding, text.embedding)
    assert list(found.states) == ["t5", "clip"]
    assert torch.equal(found.states["clip"].values, states["clip"].values)


def test_states_need_one_row_for_each_caption() -> None:
    states = TextStates(torch.zeros(3, 2, 4), torch.tensor([1, 1, 1]))
    with pytest.raises(ValueError, match="2 text embeddings, but 3 states and 3 lengths of t5"):
        TextFeatures(torch.zeros(2, 8), {"t5": states})


def test_captions_move_as_a_whole() -> None:
    text = TextFeatures(torch.zeros(2, 8), {"t5": TextStates(torch.zeros(2, 3, 4), torch.tensor([1, 2]))}).to("meta")
    assert {text.embedding.device.type, *(part.device.type for part in (text.states["t5"].values,))} == {"meta"}
    assert len(text) == 2
