"""k-means and deviations against numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.gaussians import KMeansState, Moments, assign, deviations, fit_kmeans, moments_of, starting_means
from models.gaussians.kmeans import MIN_MEMBERS, STD_FLOOR, updated_means


def make_embeddings(rows: int = 400, dim: int = 6, offset: float = 50.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, dim, generator=generator) * 4
    index = torch.randint(5, (rows,), generator=generator)
    return centres[index] + torch.randn(rows, dim, generator=generator) + offset


def test_assignment_is_that_of_numpy() -> None:
    x = make_embeddings()
    means = x[:7]
    distances = np.square(x.double().numpy()[:, None] - means.double().numpy()[None]).sum(-1)
    assert np.array_equal(assign(x, means).numpy(), distances.argmin(1))


def test_iterations_are_those_of_numpy() -> None:
    x = make_embeddings()
    means = starting_means(x, 5, seed=1)
    fitted = fit_kmeans(KMeansState(means), x, lambda m: moments_of(x, m), max_iterations=4, tolerance=0)
    data, expected = x.double().numpy(), means.numpy()
    for _ in range(4):
        index = np.square(data[:, None] - expected[None]).sum(-1).argmin(1)
        expected = np.stack([data[index == j].mean(0) for j in range(5)])
    index = np.square(data[:, None] - expected[None]).sum(-1).argmin(1)
    assert fitted.counts.tolist() == np.bincount(index, minlength=5).tolist()
    for j in range(5):
        np.testing.assert_allclose(fitted.means[j], data[index == j].mean(0), rtol=1e-6)
        np.testing.assert_allclose(fitted.stds[j], data[index == j].std(0), rtol=1e-5)


def test_inertia_never_rises_and_the_fit_converges() -> None:
    x = make_embeddings()
    state = KMeansState(starting_means(x, 8, seed=0))
    fitted = fit_kmeans(state, x, lambda m: moments_of(x, m), max_iterations=100, tolerance=0)
    assert fitted.converged
    assert all(after <= before for before, after in zip(fitted.inertias, fitted.inertias[1:], strict=False))


def test_parts_add_up_to_the_whole() -> None:
    x = make_embeddings()
    means = starting_means(x, 5, seed=0)
    whole, parts = moments_of(x, means), Moments.zero(5, 6)
    for part in torch.split(x, 90):
        parts += moments_of(part, means)
    assert torch.equal(parts.counts, whole.counts)
    torch.testing.assert_close(parts.second, whole.second, rtol=1e-12, atol=1e-12)


def test_an_empty_gaussian_moves_to_the_farthest_row() -> None:
    x = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    means = torch.tensor([[0.0], [100.0]], dtype=torch.float64)
    updated = updated_means(means, moments_of(x, means), x)
    torch.testing.assert_close(updated, torch.tensor([[2.325], [9.0]], dtype=torch.float64), rtol=0, atol=1e-6)


def test_few_members_borrow_deviation() -> None:
    many, two = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.full((2, 3), 90.0)
    means = torch.tensor([[0.0] * 3, [90.0] * 3], dtype=torch.float64)
    stds = deviations(moments_of(torch.cat([many, two]), means)).numpy()
    own = many.double().numpy().var(0)
    np.testing.assert_allclose(stds[0], np.sqrt(own), rtol=1e-6)
    pooled = own * 50 / 52
    np.testing.assert_allclose(stds[1], np.sqrt(pooled * (MIN_MEMBERS - 2) / MIN_MEMBERS), rtol=1e-6)


def test_a_constant_dimension_keeps_a_small_deviation() -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 3
    stds = deviations(moments_of(x, x.double().mean(0, keepdim=True)))
    assert stds[0, 1] == pytest.approx(STD_FLOOR * float(stds[0, 0]) / 2**0.5, rel=1e-3)


def test_too_few_different_rows_are_an_error() -> None:
    x = torch.ones(10, 2)
    with pytest.raises(ValueError, match="only 1 different embeddings"):
        starting_means(x, 2, seed=0)
    with pytest.raises(ValueError, match="copies of a single embedding"):
        deviations(moments_of(x, x[:1].double()))


def test_the_seed_decides() -> None:
    x = make_embeddings()
    assert torch.equal(starting_means(x, 5, seed=3), starting_means(x, 5, seed=3))
    assert not torch.equal(starting_means(x, 5, seed=3), starting_means(x, 5, seed=4))
