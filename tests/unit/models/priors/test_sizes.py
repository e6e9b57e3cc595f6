"""The named sizes hold as many weights as the paper's priors, counted without making them."""

import typing

import pytest
import torch

from models.priors.sizes import NetworkSize, transformer_of_size
from models.priors.spec import TextStateSpec
from models.priors.transformer import PriorTransformer

EMBED_DIM, T5 = 1536, {"t5": TextStateSpec(1024, 80)}


def make_network(size: str) -> PriorTransformer:
    with torch.device("meta"):
        return PriorTransformer(transformer_of_size(size, T5), EMBED_DIM)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("size", "paper"), [("small", 1.07e9), ("large", 1.34e9)])
def test_large_sizes_hold_the_papers_weights(size: str, paper: float) -> None:
    network = make_network(size)
    projections = count(network) - count(network.body)
    assert count(network.body) == pytest.approx(paper, rel=0.03)
    width = network.spec.width
    into_and_out_of_layers = 3 * EMBED_DIM * width + (1024 + 80) * width + 2 * 2 * width**2
    assert projections == pytest.approx(into_and_out_of_layers, rel=0.01)  # but for biases and positions


def test_sizes_grow_in_order() -> None:
    counts = [count(make_network(size)) for size in typing.get_args(NetworkSize)]
    assert counts == sorted(counts)


def test_states_and_no_states() -> None:
    assert transformer_of_size("tiny").text_states == {}
    assert transformer_of_size("tiny", T5).text_states == T5


def test_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'huge' was asked for: allowed are tiny, base, small, large"):
        transformer_of_size("huge")
