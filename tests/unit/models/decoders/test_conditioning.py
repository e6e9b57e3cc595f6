"""Conditioning: standardization, the empty embedding, and the optional layout."""

import pytest
import torch

from models.decoders.conditioning import EmbeddingConditioner, LayoutConfig


def make_conditioner(**fields):
    return EmbeddingConditioner(6, **({"num_tokens": 3, "token_dim": 10} | fields))


def test_standardized_training_embeddings_have_mean_zero_and_std_one():
    conditioner = make_conditioner()
    embeddings = 3 + 5 * torch.randn(500, 6)
    conditioner.set_statistics(embeddings.mean(0), embeddings.std(0))
    u = conditioner.standardize(embeddings)
    torch.testing.assert_close(u.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(u.std(0), torch.ones(6))


def test_dimensions_that_never_vary_are_left_finite():
    conditioner = make_conditioner()
    conditioner.set_statistics(torch.ones(6), torch.zeros(6))
    assert torch.equal(conditioner.standardize(torch.ones(2, 6)), torch.zeros(2, 6))


def test_statistics_are_saved_and_stay_exact_in_half_precision():
    conditioner = make_conditioner()
    conditioner.set_statistics(torch.full((6,), 1.2345678), torch.full((6,), 0.7654321))
    other = make_conditioner()
    other.load_state_dict(conditioner.state_dict())
    assert torch.equal(other.mean, conditioner.mean)
    half = other.to(torch.bfloat16)
    assert torch.equal(half.std, conditioner.std)
    assert half.standardize(torch.zeros(1, 6)).dtype == torch.bfloat16


def test_dropped_embeddings_become_the_empty_one():
    conditioner = make_conditioner()
    u = conditioner.drop(torch.ones(3, 6), torch.tensor([True, False, True]))
    assert torch.equal(u[0], conditioner.empty)
    assert torch.equal(u[1], torch.ones(6))


def test_in_training_embeddings_are_blurred_and_dropped_as_reported():
    conditioner = make_conditioner(empty_probability=0.3, embedding_noise=0.5)
    u = conditioner.in_training(torch.ones(3, 6), torch.full((3, 6), 2.0), torch.tensor([0.29, 0.3, 0.9]))
    assert torch.equal(u[0], conditioner.empty)
    torch.testing.assert_close(u[1:], torch.full((2, 6), 2.0))


def test_guidance_compares_with_the_empty_embedding():
    conditioner = make_conditioner()
    both = conditioner.with_empty(torch.ones(2, 6))
    assert torch.equal(both[:2], torch.ones(2, 6))
    assert torch.equal(both[2:], conditioner.empty.expand(2, 6))


def test_shapes_of_tokens_and_layout():
    u = torch.zeros(2, 6)
    conditioner = make_conditioner(layout=LayoutConfig(5, 2, 8))
    assert conditioner.token_states(u).shape == (2, 3, 10)
    layout = conditioner.layout_map(u)
    assert layout is not None
    assert layout.shape == (2, 5, 2, 2)
    assert make_conditioner().layout_map(u) is None


def test_tokens_must_have_been_asked_for():
    with pytest.raises(ValueError, match="found num_tokens 0: expected 1 or more"):
        make_conditioner(num_tokens=0).token_states(torch.zeros(1, 6))
