"""The discriminator: projection, and the deviation among pictures."""

import math

import torch

from models.decoders.stylegan2.discriminator import append_deviation
from tests.unit.models.decoders.stylegan2.factories import EMBED, SIDE, make_discriminator


def test_the_embedding_enters_by_projection_alone() -> None:
    """D(x, u) - D(x, 0) = <u, V phi(x)> / sqrt(embed)."""
    network = make_discriminator()
    pictures, u = torch.rand(4, 3, SIDE, SIDE), torch.randn(4, EMBED)
    judged, untold = network(pictures, u), network(pictures, torch.zeros(4, EMBED))
    assert torch.equal(judged.features, untold.features)
    expected = (u * judged.features).sum(1) / math.sqrt(EMBED)
    torch.testing.assert_close(judged.logits - untold.logits, expected)
    assert float(expected.detach().abs().mean()) > 0.01


def test_deviation_is_that_of_the_group_and_0_where_all_are_the_same() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 2, 2)
    channel = append_deviation(x, 4)[:, 3]
    members = x[[1, 3, 5, 7]]  # pictures stand in a group with every second one
    expected = members.std(dim=0, correction=0).mean()
    torch.testing.assert_close(channel[[1, 3, 5, 7]], expected.expand(4, 2, 2))
    same = append_deviation(x[:1].expand(4, -1, -1, -1), 4)[:, 3]
    assert float(same.abs().max()) < 1e-3
    assert append_deviation(x[:3], 4).shape == (3, 4, 2, 2)


def test_logits_are_single_precision_under_bf16() -> None:
    network = make_discriminator()
    with torch.autocast("cpu", torch.bfloat16):
        judged = network(torch.rand(4, 3, SIDE, SIDE), torch.randn(4, EMBED))
    assert judged.logits.dtype == judged.features.dtype == torch.float32


def test_the_rate_leaves_the_judgement_as_it_is() -> None:
    slow = make_discriminator(rate=0.5)
    fast = make_discriminator()
    pictures, u = torch.rand(4, 3, SIDE, SIDE), torch.randn(4, EMBED)
    torch.testing.assert_close(slow(pictures, u).logits, fast(pictures, u).logits)  # drawn as twice as large
