"""The way between embeddings: on the sphere, block by block, from one end to the other."""

import math

import pytest
import torch

from models.interpolation import slerp


def rows(seed, count=3, width=8):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_the_ends_are_the_embeddings_themselves():
    a, b = rows(0), rows(1)
    assert torch.equal(slerp(a, b, torch.zeros(3), [8]), a)
    assert torch.equal(slerp(a, b, torch.ones(3), [8]), b)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_angle_and_length_go_evenly(fraction):
    a, b = 3 * rows(0), rows(1)
    between = slerp(a, b, torch.full((3,), fraction), [8])
    whole = torch.nn.functional.cosine_similarity(a, b).acos()
    gone = torch.nn.functional.cosine_similarity(a, between).acos()
    torch.testing.assert_close(gone, fraction * whole, atol=1e-3, rtol=0)
    torch.testing.assert_close(between.norm(dim=1), (1 - fraction) * a.norm(dim=1) + fraction * b.norm(dim=1))


def test_halfway_between_two_axes_is_the_diagonal():
    half = slerp(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([0.5]), [2])
    torch.testing.assert_close(half, torch.full((1, 2), math.sqrt(2)))


def test_each_clip_model_s_block_goes_by_itself():
    a, b, fraction = rows(0), rows(1), torch.tensor([0.2, 0.5, 0.7])
    apart = [slerp(a[:, part], b[:, part], fraction, [4]) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(slerp(a, b, fraction, [4, 4]), torch.cat(apart, dim=1))
    assert not torch.allclose(slerp(a, b, fraction, [4, 4]), slerp(a, b, fraction, [8]))


def test_equal_embeddings_stay_as_they_are():
    a = rows(0)
    torch.testing.assert_close(slerp(a, a.clone(), torch.full((3,), 0.5), [8]), a)
    torch.testing.assert_close(slerp(a, 2 * a, torch.full((3,), 0.5), [8]), 1.5 * a)


def test_opposite_embeddings_have_no_shortest_path():
    with pytest.raises(ValueError, match="found opposite embeddings"):
        slerp(rows(0), -rows(0), torch.full((3,), 0.5), [8])
    with pytest.raises(ValueError, match="block_dims"):
        slerp(rows(0), rows(1), torch.full((3,), 0.5), [4])
