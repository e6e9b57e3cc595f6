"""k-means and standard deviations against numpy."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from models.gaussians.initialization import further_means
from models.gaussians.initialization import initialize_on_sample as start
from models.gaussians.kmeans import (
    MIN_MEMBERS,
    STD_FLOOR,
    FittedGaussians,
    Kind,
    KMeansState,
    Pass,
    fit_kmeans,
    member_stds,
    moved_means,
    placed,
)
from models.gaussians.moments import Grid, Moments
from models.gaussians.nearest import Nearest, rows_at_once


def make_embeddings(rows: int = 400, dim: int = 6, offset: float = 50.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, dim, generator=generator) * 4
    index = torch.randint(5, (rows,), generator=generator)
    return centres[index] + torch.randn(rows, dim, generator=generator) + offset


def scale_of(x: Tensor) -> Tensor:
    return x.double().square().mean(0).sqrt()


@dataclass
class InMemory:
    """A sample in memory."""

    x: Tensor
    kind: Kind = "euclidean"

    def __post_init__(self) -> None:
        self.rows = placed(self.x, self.kind)
        self.origin, self.scale = self.rows.mean(0), scale_of(self.x)

    def __len__(self) -> int:
        return len(self.rows)

    def map(self, function: Callable[[Tensor], Tensor], size: int) -> Iterator[Tensor]:
        return map(function, torch.split(self.rows, size))

    def pick(self, rows: Tensor) -> Tensor:
        return self.rows[rows]


def moments_of(x: Tensor, means: Tensor, kind: Kind = "euclidean", *, last: bool = False) -> Moments:
    one_pass = Pass(KMeansState(means, scale_of(x)), len(x), kind, last=last)
    one_pass.add(x)
    return one_pass.total


def initialize_on_sample(x: Tensor, num: int, seed: int, kind: Kind = "euclidean", *, iterations: int) -> Tensor:
    def make_pass(state: KMeansState, last: bool) -> Moments:
        return moments_of(x, state.means, kind, last=last)

    return start(InMemory(x, kind), make_pass, num, seed, kind, iterations=iterations).means


def fit(
    x: Tensor, means: Tensor, *, iterations: int, kind: Kind = "euclidean", tolerance: float = 0
) -> FittedGaussians:
    def refill(number: int, filled: Tensor, count: int) -> Tensor:
        return further_means(InMemory(x, kind), filled, count, torch.Generator().manual_seed(number))

    return fit_kmeans(
        KMeansState(means, scale_of(x)),
        lambda state, last: moments_of(x, state.means, kind, last=last),
        refill,
        max_iterations=iterations,
        tolerance=tolerance,
        kind=kind,
    )


@pytest.mark.parametrize("num_gaussians", [1, 7, 200])
def test_assignment_is_that_of_numpy(num_gaussians: int) -> None:
    x = make_embeddings(rows=5000)
    means = x[:num_gaussians]
    squares = [np.square(x.double().numpy() - mean).sum(1) for mean in means.double().numpy()]
    assert np.array_equal(Nearest(means)(x).numpy(), np.argmin(squares, axis=0))


@pytest.mark.parametrize("spread", [0.0, 0.002, 1.0])
def test_a_rough_product_decides_only_clear_cases(spread: float) -> None:
    """With means so close together that bfloat16 confuses them, the exact product is asked."""
    x = make_embeddings(rows=3000, offset=5.0)
    generator = torch.Generator().manual_seed(1)
    means = x[:20].repeat(10, 1).double() + spread * torch.randn(200, 6, generator=generator, dtype=torch.float64)
    nearest = Nearest(means, screen=True)
    found = torch.cat([nearest(part) for part in torch.split(x, 700)])
    squares = np.stack([np.square(x.double().numpy() - mean).sum(1) for mean in means.numpy()])
    chosen = squares[found.numpy(), np.arange(len(x))]
    np.testing.assert_allclose(chosen, squares.min(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0])  # clusters apart, clusters that overlap, none at all
def test_both_algorithms_find_the_same_means(noise: float) -> None:
    means = torch.randn(300, 64, generator=torch.Generator().manual_seed(2))
    x = means.repeat(4, 1) + noise * torch.randn(1200, 64, generator=torch.Generator().manual_seed(3))
    found = Nearest(means, screen=True)(x)
    squares = (x[:, None].double() - means.double()).square().sum(-1)
    torch.testing.assert_close(squares.gather(1, found[:, None])[:, 0], squares.amin(1), rtol=1e-5, atol=0)
    if noise == 0.1:
        assert torch.equal(found, torch.arange(300).repeat(4))


@pytest.mark.parametrize("fraction", [0.02, 1.0])  # a few rows, all of them
def test_rows_nearer_to_the_middle_than_to_any_mean(fraction: float) -> None:
    """Their scores are all below 0, where bits and numbers are not in the same order."""
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(300, 24, generator=generator) * 2
    means -= means.mean(0)
    x = means.repeat(4, 1) + 0.1 * torch.randn(1200, 24, generator=generator)
    middle = torch.rand(1200, generator=generator) < fraction
    x[middle] = torch.randn(int(middle.sum()), 24, generator=generator)
    squares = (x[:, None].double() - means.double()).square().sum(-1)
    found = squares.gather(1, Nearest(means, screen=True)(x)[:, None])[:, 0]
    torch.testing.assert_close(found, squares.amin(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("offset", [0.0, 50.0])
@pytest.mark.parametrize("dim", [1, 6, 96])
def test_no_rough_score_is_further_off_than_its_bound(dim: int, offset: float) -> None:
    x, means = make_embeddings(rows=2000, dim=dim, offset=offset).split([1800, 200])
    nearest = Nearest(means, screen=True)
    x = x[: rows_at_once(200, dim)]
    most, length = nearest._at_most(x)
    centred, columns = (x - nearest.origin).double(), (means - nearest.origin).double().T
    scores = centred @ columns - columns.square().sum(0) / 2
    rounded = 2.0**-8 * most.double().abs()
    reach = torch.outer(length, nearest._rough[:, dim].float()).double()
    assert (scores <= most + rounded).all()
    assert (scores >= most - rounded - 2 * reach).all()
    assert (scores > most - reach).any()  # and the bound is not idle
    assert (scores < most - reach).any()


def test_threads_may_use_the_same_means() -> None:
    x = make_embeddings(rows=4000)
    nearest = Nearest(x[:200], screen=True)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(nearest, torch.split(x, 100)))
    assert torch.equal(torch.cat(parts), torch.cat([nearest(part) for part in torch.split(x, 100)]))


def test_iterations_are_those_of_numpy() -> None:
    x = make_embeddings()
    means = initialize_on_sample(x, 5, 1, iterations=0)
    fitted = fit(x, means, iterations=5)
    data, expected = x.double().numpy(), means.double().numpy()
    inertias = []
    for _ in range(4):
        squares = np.square(data[:, None] - expected[None]).sum(-1)
        inertias.append(squares.min(1).sum())
        expected = np.stack([data[squares.argmin(1) == j].mean(0).astype(np.float32) for j in range(5)])
    index = np.square(data[:, None] - expected[None]).sum(-1).argmin(1)
    np.testing.assert_allclose(fitted.inertias, inertias, rtol=1e-9)
    assert fitted.counts.tolist() == np.bincount(index, minlength=5).tolist()
    for j in range(5):
        np.testing.assert_allclose(fitted.means[j], data[index == j].mean(0), rtol=1e-6)
        np.testing.assert_allclose(fitted.stds[j], data[index == j].std(0), rtol=1e-5)


def test_spherical_means_are_directions_and_gaussians_those_of_the_embeddings() -> None:
    x = make_embeddings(offset=1.0) * torch.linspace(0.5, 20, 400)[:, None]
    means = initialize_on_sample(x, 5, 1, "spherical", iterations=0)
    fitted = fit(x, means, iterations=4, kind="spherical")
    data, directions = x.double().numpy(), means.numpy()
    units = data / np.linalg.norm(data, axis=1, keepdims=True)
    for _ in range(3):
        index = (units @ directions.T).argmax(1)
        sums = np.stack([units[index == j].sum(0) for j in range(5)])
        directions = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    index = (units @ directions.T).argmax(1)
    assert fitted.counts.tolist() == np.bincount(index, minlength=5).tolist()
    for j in range(5):
        np.testing.assert_allclose(fitted.means[j], data[index == j].mean(0), rtol=1e-5)
        np.testing.assert_allclose(fitted.stds[j], data[index == j].std(0), rtol=1e-5)


def test_length_has_no_effect_where_spherical() -> None:
    x = torch.tensor([[1.0, 0.1], [100.0, 0.0], [0.0, 1.0], [5.0, 300.0]])
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert moments_of(x, means, "spherical").counts.tolist() == [2, 2]
    assert fit(x, means, iterations=2, kind="spherical").counts.tolist() == [2, 2]


def test_inertia_never_rises_and_the_fit_converges() -> None:
    x = make_embeddings()
    fitted = fit(x, initialize_on_sample(x, 8, 0, iterations=0), iterations=100)
    assert fitted.converged
    assert all(after <= before for before, after in zip(fitted.inertias, fitted.inertias[1:], strict=False))


def test_one_iteration_is_one_pass() -> None:
    x = make_embeddings()
    fitted = fit(x, x.double().mean(0, keepdim=True), iterations=1)
    assert fitted.inertias == ()
    np.testing.assert_allclose(fitted.stds[0], x.double().numpy().std(0), rtol=1e-6)


@pytest.mark.parametrize("kind", ["euclidean", "spherical"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_parts_in_any_order_add_up_to_the_same_bits(kind: Kind, last: bool, size: float) -> None:
    x = make_embeddings(rows=3000, offset=1.0) * size
    state = KMeansState(initialize_on_sample(x, 5, 0, kind, iterations=1), scale_of(x[:200]))
    whole = Pass(state, len(x), kind, last=last)
    whole.add(x)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(4))]
    passes = [Pass(state, len(x), kind, last=last) for _ in range(3)]
    for number, part in enumerate(torch.split(shuffled, 170)):
        passes[number % 3].add(part)
    total = passes[2].total
    total += passes[0].total
    total += passes[1].total
    assert torch.equal(total.counts, whole.total.counts)
    assert torch.equal(total.first, whole.total.first)
    assert torch.equal(total.energy, whole.total.energy)
    assert (total.second is not None) is last
    if total.second is not None:
        assert whole.total.second is not None
        assert torch.equal(total.second, whole.total.second)
    assert total.exact is last


def test_sums_lose_no_more_than_their_steps() -> None:
    x = make_embeddings(rows=5000)
    index = torch.arange(5000) % 7
    for rows in (5000, 10**9):  # as if this were a small part of it all
        moments = Moments.zero(7, Grid.of(scale_of(x), rows), stds=True)
        moments.add_rows(x, index)
        assert moments.second is not None
        for j in range(7):
            members = x[index == j].double()
            fraction = len(members) * scale_of(x) * (8 * rows * 2.0**-53)  # a step is at most twice that of one member
            assert ((moments.first[j] - members.sum(0)).abs() <= fraction).all()
            assert ((moments.second[j] - members.square().sum(0)).abs() <= 8 * fraction * scale_of(x)).all()
        assert float(moments.energy) == pytest.approx(float(x.double().square().sum()), rel=1e-5)
        assert moments.exact


def test_embeddings_beyond_what_sums_were_made_for_are_reported_and_added_nevertheless() -> None:
    x = make_embeddings(offset=0.0)
    state = KMeansState(x[:1], scale_of(x))
    for factor, exact in ((1.0, True), (2.0, True), (100.0, False)):
        one_pass = Pass(state, len(x), last=True)
        one_pass.add(x * factor)
        assert one_pass.total.exact is exact
        torch.testing.assert_close(one_pass.total.first[0], (x * factor).double().sum(0), rtol=1e-9, atol=1e-9)


def test_an_empty_gaussian_moves_to_where_embeddings_are_far_from_all_means() -> None:
    x = torch.tensor([[-0.5], [0.0], [0.5], [9.0]])
    means = torch.tensor([[0.0], [100.0]], dtype=torch.float64)
    moved = moved_means(
        moments_of(x[:3], means), "euclidean", lambda m, n: further_means(InMemory(x[[1, 3]]), m, n, torch.Generator())
    )
    assert moved.tolist() == [[0.0], [9.0]]
    assert sorted(fit(x, means, iterations=3).counts.tolist()) == [1, 3]


def test_few_members_borrow_std() -> None:
    many, two = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.full((2, 3), 90.0)
    means = torch.tensor([[0.0] * 3, [90.0] * 3], dtype=torch.float64)
    stds = member_stds(moments_of(torch.cat([many, two]), means, last=True)).numpy()
    own = many.double().numpy().var(0)
    np.testing.assert_allclose(stds[0], np.sqrt(own), rtol=1e-6)
    pooled = own * 50 / 52
    np.testing.assert_allclose(stds[1], np.sqrt(pooled * (MIN_MEMBERS - 2) / MIN_MEMBERS), rtol=1e-6)


def test_a_constant_dimension_keeps_a_small_std() -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 3.1
    stds = member_stds(moments_of(x, x.double().mean(0, keepdim=True), last=True))
    assert stds[0, 1] == pytest.approx(1e-4 * float(stds[0, 0]) / 2**0.5, rel=1e-3)


def test_equal_members_keep_a_part_of_the_pooled_std() -> None:
    """Their Gaussian would else be so narrow that a process ending in it returns its mean whatever the caption."""
    many, equal = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.full((20, 3), 90.0)
    means = torch.tensor([[0.0] * 3, [90.0] * 3], dtype=torch.float64)
    stds = member_stds(moments_of(torch.cat([many, equal]), means, last=True)).numpy()
    pooled = many.double().numpy().var(0) * 50 / 70
    np.testing.assert_allclose(stds[1], STD_FLOOR * np.sqrt(pooled), rtol=1e-6)


def test_too_few_different_rows_are_an_error() -> None:
    x = torch.full((10, 2), 1.3)
    with pytest.raises(ValueError, match="only 1 different embeddings"):
        initialize_on_sample(x, 2, 0, iterations=0)
    with pytest.raises(ValueError, match="copies of a single embedding"):
        member_stds(moments_of(x, x[:1].double(), last=True))
    with pytest.raises(ValueError, match="no squares"):
        member_stds(moments_of(x, x[:1].double()))


def test_the_seed_decides() -> None:
    x = make_embeddings()
    assert torch.equal(initialize_on_sample(x, 5, 3, iterations=2), initialize_on_sample(x, 5, 3, iterations=2))
    assert not torch.equal(initialize_on_sample(x, 5, 3, iterations=0), initialize_on_sample(x, 5, 4, iterations=0))


def test_every_different_row_can_be_a_mean() -> None:
    x = make_embeddings(rows=300)
    twice = torch.cat([x, x])
    means = initialize_on_sample(twice, 300, 0, iterations=0)
    assert {tuple(row) for row in means.tolist()} == {tuple(row) for row in x.double().tolist()}


def test_batches_generate_as_one_at_a_time() -> None:
    """Rows sampled in batches with rejection have the probabilities of k-means++: here those of the third mean."""
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0], [20.0]])
    known = points[[0] * 8]  # eight means, so that batches are of two
    generated = {(i, j): 0 for i in range(5) for j in range(5)}
    runs = 3000
    generator = torch.Generator().manual_seed(0)
    indices = {float(p): i for i, p in enumerate(points)}
    for _ in range(runs):
        first, second = (indices[float(x)] for x in further_means(InMemory(points), known, 2, generator))
        generated[first, second] += 1
    squares = np.square(points.double().numpy() - points.double().numpy().T)
    start = squares[0] / squares[0].sum()
    for (i, j), count in generated.items():
        after = np.minimum(squares[0], squares[i])
        expected = start[i] * after[j] / after.sum()
        assert count / runs == pytest.approx(expected, abs=5 * (expected * (1 - expected) / runs) ** 0.5 + 1e-9)
