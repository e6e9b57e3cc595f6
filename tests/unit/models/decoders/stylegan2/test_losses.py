"""Adversarial losses against autograd and against formulas written out."""

import math

import pytest
import torch
from torch import Tensor

from models.decoders.stylegan2.losses import (
    block_cosines,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    info_nce,
    path_lengths,
    pseudo_text,
)


def test_losses_are_those_of_the_sigmoid() -> None:
    true, generated = torch.tensor([0.3, -2.0]), torch.tensor([1.5, -0.4])
    torch.testing.assert_close(generator_loss(generated), -torch.log(torch.sigmoid(generated)))
    expected = -torch.log(torch.sigmoid(true)) - torch.log(1 - torch.sigmoid(generated))
    torch.testing.assert_close(discriminator_loss(true, generated), expected)


def test_gradient_penalty_of_a_quadratic_form_is_known() -> None:
    """D(x) = x^T A x / 2 + b x has the gradient A x + b, and |A x + b|^2 the derivative 2 (A x + b) in b."""
    torch.manual_seed(0)
    x = torch.randn(3, 12, dtype=torch.float64)
    a = torch.randn(12, 12, dtype=torch.float64)
    a, b = a + a.T, torch.randn(12, dtype=torch.float64, requires_grad=True)
    leaf = x.view(3, 3, 2, 2).requires_grad_()
    rows = leaf.flatten(1)
    penalty = gradient_penalty(((rows @ a) * rows).sum(1) / 2 + rows @ b, leaf)
    gradient = x @ a + b.detach()
    torch.testing.assert_close(penalty.double(), gradient.square().sum(1), rtol=1e-5, atol=1e-5)
    penalty.sum().backward()
    assert b.grad is not None
    torch.testing.assert_close(b.grad, 2 * gradient.sum(0), rtol=1e-5, atol=1e-5)


def test_path_length_of_a_linear_map_is_known() -> None:
    """For x = W w, J^T y = W^T y."""
    torch.manual_seed(0)
    weights = torch.randn(5, 12)
    w, noise = torch.randn(4, 5, requires_grad=True), torch.randn(4, 3, 2, 2)
    lengths = path_lengths((w @ weights).view(4, 3, 2, 2), w, noise)
    expected = (noise.flatten(1) / 2 @ weights.T).norm(dim=1)  # sqrt(4 pixels) = 2
    torch.testing.assert_close(lengths, expected)


def plain_info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    losses = []
    for i, key in enumerate(keys):
        scores = [math.e ** (torch.dot(key, q) / key.norm() / q.norm() / temperature) for q in queries]
        losses.append(-torch.log(scores[i] / torch.stack(scores).sum()))
    return torch.stack(losses)


def test_info_nce_is_its_formula_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    gradients = []
    for loss in (info_nce, plain_info_nce):
        leaf = queries.clone().requires_grad_()
        value = loss(leaf, keys, temperature=0.3)
        value.sum().backward()
        gradients.append((value.detach().float(), leaf.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_info_nce_of_equal_embeddings_is_log_count() -> None:
    same = torch.ones(5, 3)
    torch.testing.assert_close(info_nce(same, same, temperature=0.1), torch.full((5,), math.log(5)))


def test_cosines_are_averaged_over_blocks_and_exact_under_bf16() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(3, 6), torch.randn(3, 6)
    right[:, 2:] *= 100  # a longer block counts no more
    expected = (block_cosines(left[:, :2], right[:, :2]) + block_cosines(left[:, 2:], right[:, 2:])) / 2
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block_cosines(left, right, (2, 4)), expected)


@pytest.mark.parametrize("xi", [0.1, 1.0, 3.0])
def test_pseudo_text_keeps_the_length_and_has_the_stated_cosine(xi: float) -> None:
    source = torch.Generator().manual_seed(0)
    z = torch.randn(400, 512, generator=source) * torch.rand(400, 1, generator=source) * 20
    h = pseudo_text(z, torch.randn(400, 512, generator=source), xi)
    torch.testing.assert_close(h.norm(dim=1), z.norm(dim=1))
    cosines = torch.cosine_similarity(h, z)
    assert float(cosines.mean()) == pytest.approx(1 / math.sqrt(1 + xi**2), abs=0.01)
