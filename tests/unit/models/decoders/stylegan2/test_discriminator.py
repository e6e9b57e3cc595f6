"""The discriminator: projection, and the std among images."""

import math

import torch

from models.decoders.stylegan2.discriminator import append_std
from tests.unit.models.decoders.stylegan2.factories import EMBED, SIDE, make_discriminator


def test_the_embedding_enters_by_projection_alone() -> None:
    """D(x, u) - D(x, 0) = <u, V phi(x)> / sqrt(embed)."""
    network = make_discriminator()
    images, u = torch.rand(4, 3, SIDE, SIDE), torch.randn(4, EMBED)
    evaluated, unconditional = network(images, u), network(images, torch.zeros(4, EMBED))
    assert torch.equal(evaluated.features, unconditional.features)
    expected = (u * evaluated.features).sum(1) / math.sqrt(EMBED)
    torch.testing.assert_close(evaluated.logits - unconditional.logits, expected)
    assert float(expected.detach().abs().mean()) > 0.01


def test_std_is_that_of_the_group_and_0_where_all_are_the_same() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 2, 2)
    channel = append_std(x, 4)[:, 3]
    members = x[[1, 3, 5, 7]]  # images stand in a group with every second one
    expected = members.std(dim=0, correction=0).mean()
    torch.testing.assert_close(channel[[1, 3, 5, 7]], expected.expand(4, 2, 2))
    same = append_std(x[:1].expand(4, -1, -1, -1), 4)[:, 3]
    assert float(same.abs().max()) < 1e-3
    assert append_std(x[:3], 4).shape == (3, 4, 2, 2)


def test_logits_are_single_precision_under_bf16() -> None:
    network = make_discriminator()
    with torch.autocast("cpu", torch.bfloat16):
        evaluated = network(torch.rand(4, 3, SIDE, SIDE), torch.randn(4, EMBED))
    assert evaluated.logits.dtype == evaluated.features.dtype == torch.float32


def test_the_rate_leaves_the_evaluation_as_it_is() -> None:
    slow = make_discriminator(rate=0.5)
    fast = make_discriminator()
    images, u = torch.rand(4, 3, SIDE, SIDE), torch.randn(4, EMBED)
    torch.testing.assert_close(slow(images, u).logits, fast(images, u).logits)  # sampled twice as large
