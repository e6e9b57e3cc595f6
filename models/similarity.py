"""Measures between generated and true embeddings.

A cosine to the true embedding alone can be gamed, because the mean wins: report beside it the cosine to unrelated
embeddings, the ratios of norm and variance, the retrieval rank, a distance between the two distributions, and the
diversity of several samples for one caption.

Symbols: a = generated, b = true embeddings, row i of a belongs to row i of b: [batch, embed];
``block_dims`` = widths of the concatenated CLIP models, in order; they add up to embed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.related import is_one_group

RETRIEVAL_RANKS = (1, 5, 10)
CMMD_SIGMA = 10.0
MMD_SCALE = 1000.0
FEWEST_FOR_DISTANCES = 4  # two halves of two rows each
_ROWS_AT_ONCE = 4096
_RANKED_AT_ONCE = 512
_TIE = 1e-6  # cosines nearer than this are equal: more than rounding


def blocks_of(embeddings: Float[Tensor, "*batch embed"], block_dims: Sequence[int]) -> tuple[Tensor, ...]:
    """Split concatenated embeddings into one block per CLIP model."""
    if sum(block_dims) != embeddings.shape[-1]:
        raise ValueError(
            f"similarity: block_dims {list(block_dims)} add up to {sum(block_dims)}, "
            f"but the embeddings have {embeddings.shape[-1]} dimensions; give one width per CLIP model"
        )
    return torch.split(embeddings, list(block_dims), dim=-1)


def block_cosine(
    a: Float[Tensor, "batch embed"], b: Float[Tensor, "batch embed"], block_dims: Sequence[int]
) -> Float[Tensor, "batch"]:
    """Return the cosine of each pair of rows, taken per block and averaged over the blocks."""
    pairs = zip(blocks_of(a, block_dims), blocks_of(b, block_dims), strict=True)
    return torch.stack([F.cosine_similarity(x, y, dim=-1) for x, y in pairs]).mean(0)


def unrelated_cosine(
    a: Float[Tensor, "batch embed"],
    b: Float[Tensor, "pairs embed"],
    block_dims: Sequence[int],
    *,
    first: int = 0,
    groups: Int[Tensor, " pairs"] | None = None,
) -> Float[Tensor, "batch"]:
    """Return each row's mean block cosine to ALL true embeddings of other groups (no shuffle, so no luck).

    ``a`` may be a part of the generated embeddings: row i of it belongs to row ``first`` + i of b. ``groups`` are those
    of related pairs (:mod:`models.related`), numbered by rows; none: each pair is its own.
    """
    count = b.shape[0]
    groups = torch.arange(count) if groups is None else groups
    if is_one_group(groups):
        raise ValueError(f"similarity: unrelated pairs need at least 2 embeddings that are not related, got {count}")
    groups = groups.to(b.device)
    own = groups[first : first + len(a)]
    others = count - torch.bincount(groups, minlength=count)[own]  # [batch]
    per_block = []
    for x, y in zip(blocks_of(a, block_dims), blocks_of(b, block_dims), strict=True):
        x_hat, y_hat = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
        related = torch.zeros_like(y_hat).index_add(0, groups, y_hat)[own]  # sums of groups: [batch, block]
        per_block.append((x_hat * (y_hat.sum(0) - related)).sum(-1) / others)
    return torch.stack(per_block).mean(0)


def unrelated_columns(
    a: Float[Tensor, "batch embed"],
    b: Float[Tensor, "batch embed"],
    block_dims: Sequence[int],
    groups: Int[Tensor, " batch"] | None,
) -> dict[str, Float[Tensor, "batch"]]:
    """Return :func:`unrelated_cosine` over all blocks and of each of several, by name; where all are related, none."""
    if groups is not None and is_one_group(groups):
        return {}
    columns = {"cosine_unrelated": unrelated_cosine(a, b, block_dims, groups=groups)}
    if len(block_dims) > 1:
        for i, (x, y) in enumerate(zip(blocks_of(a, block_dims), blocks_of(b, block_dims), strict=True)):
            columns[f"cosine_unrelated_block_{i}"] = unrelated_cosine(x, y, [x.shape[-1]], groups=groups)
    return columns


def retrieval_ranks(
    a: Float[Tensor, "batch embed"], b: Float[Tensor, "batch embed"], block_dims: Sequence[int]
) -> Float[Tensor, "batch"]:
    """Return the rank (1 = best) of each row's true embedding among all true embeddings, by block cosine.

    A true embedding that ties with others takes the last of their ranks, so that a constant prediction scores nothing.
    """
    blocks = tuple(zip(blocks_of(a, block_dims), blocks_of(b, block_dims), strict=True))
    pairs = [(F.normalize(x, dim=-1), F.normalize(y, dim=-1)) for x, y in blocks]
    ranks = []
    for first in range(0, len(a), _RANKED_AT_ONCE):
        scores = torch.stack([x[first : first + _RANKED_AT_ONCE] @ y.T for x, y in pairs]).mean(0)
        own = scores.diagonal(first)[:, None]
        ranks.append((scores >= own - _TIE).sum(1))
    return torch.cat(ranks or [torch.zeros(0)]).to(a.dtype)


def diversity(samples: Float[Tensor, "captions samples embed"], block_dims: Sequence[int]) -> Float[Tensor, "captions"]:
    """Return 1 - the mean block cosine over all pairs of one caption's samples; 0: the samples are all alike."""
    count = samples.shape[1]
    if count < 2:
        raise ValueError(f"similarity: diversity needs at least 2 samples of a caption, got {count}")
    per_block = []
    for x in blocks_of(samples, block_dims):
        sums = F.normalize(x, dim=-1).sum(1)  # |sum of unit vectors|^2 = count + sum over i != j of cos: [captions]
        per_block.append((sums.square().sum(-1) - count) / (count * (count - 1)))
    return (1 - torch.stack(per_block).mean(0)).clamp_min(0)  # samples that are alike differ by rounding alone


def centred_cosine(
    a: Float[Tensor, "batch embed"], b: Float[Tensor, "batch embed"], block_dims: Sequence[int]
) -> Float[Tensor, "batch"]:
    """Return :func:`block_cosine` about the mean of the true embeddings, which gives the mean itself nothing."""
    centre = b.mean(0)
    return block_cosine(a - centre, b - centre, block_dims)


def require_finite_rows(**sets: Float[Tensor, "batch embed"]) -> None:
    """Refuse sets of embeddings (by name) of which some are not finite: a mean over them would be NaN."""
    for name, rows in sets.items():
        bad = int((~rows.isfinite().all(-1)).sum())
        if bad:
            raise ValueError(
                f"similarity: {bad} of {len(rows)} {name} embeddings hold numbers that are not finite: expected finite "
                "ones: train in float32 or with a lower learning rate, or embed again"
            )


def frechet_distance(a: Float[Tensor, "rows embed"], b: Float[Tensor, "others embed"]) -> Float[Tensor, ""]:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), both taken as Gaussian (arXiv 1706.08500, eq. 6).

    Biased: with few rows the covariances are wrong, and the distance between two sets of ONE distribution is above 0,
    by about embed / (2 rows) of the total variance while rows exceed embed, and by up to twice the total variance when
    they do not. So compare distances of equal numbers of rows only, and with that of two halves of the true set.
    Computed in float64. With A, B the centred rows / sqrt(rows - 1), C_a = A'A, and the trace of (C_a C_b)^(1/2) is
    the sum of the singular values of A B'; replacing A, B by their triangular QR factors leaves those as they are.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"similarity: a Frechet distance needs at least 2 rows in each set, got {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    roots = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    total = roots[0].square().sum() + roots[1].square().sum()  # tr C_a + tr C_b
    r_a, r_b = (torch.linalg.qr(root, mode="r").R for root in roots)
    shared = torch.linalg.svdvals(r_a @ r_b.T).sum()
    distance: Tensor = (a.mean(0) - b.mean(0)).square().sum() + (total - 2 * shared).clamp_min(0)  # < 0 is rounding
    return distance


def mmd(
    a: Float[Tensor, "batch embed"], b: Float[Tensor, "batch embed"], block_dims: Sequence[int], *, sigma: float | None
) -> Float[Tensor, ""]:
    """Return 1000 x the squared maximum mean discrepancy, unbiased, averaged over the blocks (arXiv 2401.09603).

    Kernel exp(-|x - y|^2 / (2 sigma^2)) on blocks scaled to length 1. ``sigma`` 10 is that paper's (CMMD): on unit
    vectors it is nearly linear in |x - y|^2, so it sees little but the means; none takes the median distance between
    true embeddings, which sees shape and spread as well. Unbiased, so it may fall below 0; the pairs (a_i, b_i) are
    left out (Gretton et al. 2012, eq. 3), because a generated embedding depends on the caption of its true one.
    """
    count = len(b)
    if count < 2 or len(a) != count:
        raise ValueError(f"similarity: mmd needs at least 2 pairs, got {len(a)} and {count} embeddings")
    values = []
    for x, y in zip(blocks_of(a.double(), block_dims), blocks_of(b.double(), block_dims), strict=True):
        x_hat, y_hat = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
        width = sigma if sigma is not None else float(F.pdist(y_hat).median().clamp_min(1e-12))
        kernels = [torch.cdist(p, q).square().div(-2 * width**2).exp() for p, q in _sides(x_hat, y_hat)]
        k_xx, k_yy, k_xy = (k.sum() - k.diagonal().sum() for k in kernels)
        values.append((k_xx + k_yy - 2 * k_xy) / (count * (count - 1)))
    return MMD_SCALE * torch.stack(values).mean()


def kid(a: Float[Tensor, "rows embed"], b: Float[Tensor, "others embed"]) -> Float[Tensor, ""]:
    """Return the kernel distance of two sets of features, unbiased (KID; arXiv 1801.01401, section 4).

    The squared maximum mean discrepancy with the kernel (x . y / embed + 1)^3, without each row's product with itself.
    So it is right on average for any number of rows, where a Fréchet distance is too large, and may fall below 0.
    Computed in float64 over all rows, not over sampled subsets.
    """
    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise ValueError(f"similarity: a kernel distance needs at least 2 rows in each set, got {n} and {m}")
    a, b = a.double(), b.double()
    k_aa, k_bb, k_ab = (_polynomial_sums(x, y) for x, y in _sides(a, b))
    (all_aa, own_aa), (all_bb, own_bb), (all_ab, _) = k_aa, k_bb, k_ab
    return (all_aa - own_aa) / (n * (n - 1)) + (all_bb - own_bb) / (m * (m - 1)) - 2 * all_ab / (n * m)


def _polynomial_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of (x_i . y_j / embed + 1)^3 over all i, j, and over i = j; some rows of x at a time."""
    width = x.shape[1]
    total = x.new_zeros(())
    for part in torch.split(x, _ROWS_AT_ONCE):
        total += (part @ y.T / width + 1).pow(3).sum()
    count = min(len(x), len(y))
    return total, ((x[:count] * y[:count]).sum(1) / width + 1).pow(3).sum()


def _sides(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    return (x, x), (y, y), (x, y)


def distance_report(
    a: Float[Tensor, "batch embed"], b: Float[Tensor, "batch embed"], block_dims: Sequence[int]
) -> dict[str, float]:
    """Return the distances between the distributions of a and b; lower is better.

    ``frechet`` = mean distance of one half of a from the OTHER half of b, so that it is of as many and as independent
    rows as its reference; it is biased: ``frechet_rows`` = of how many rows, ``frechet_bias`` = what two halves of the
    true embeddings have. Do not choose a prior by it: on a few hundred rows it prefers narrow ones. ``cmmd`` and
    ``mmd`` = :func:`mmd` with sigma 10 and the median distance, over all rows, unbiased.
    """
    require_finite_rows(generated=a, true=b)
    (a_1, a_2), (b_1, b_2) = _halves(a), _halves(b)
    values = {
        "frechet": (frechet_distance(a_1, b_2) + frechet_distance(a_2, b_1)) / 2,
        "frechet_rows": torch.tensor(float(len(a_1))),
        "frechet_bias": frechet_distance(b_1, b_2),
        "cmmd": mmd(a, b, block_dims, sigma=CMMD_SIGMA),
        "mmd": mmd(a, b, block_dims, sigma=None),
    }
    return {name: float(value) for name, value in values.items()}


def reference_report(
    b: Float[Tensor, "batch embed"], block_dims: Sequence[int], *, groups: Int[Tensor, " batch"] | None = None
) -> dict[str, float]:
    """Return what a perfect prior would reach: the distances between two halves of the true embeddings.

    Beside them ``cosine_unrelated``, of true embeddings to unrelated ones, where ``groups`` leave any. The mmds are 0
    but for chance.
    """
    b_1, b_2 = _halves(b)
    values = {
        "frechet": frechet_distance(b_1, b_2),
        "cmmd": mmd(b_1, b_2, block_dims, sigma=CMMD_SIGMA),
        "mmd": mmd(b_1, b_2, block_dims, sigma=None),
    }
    if groups is None or not is_one_group(groups):
        values["cosine_unrelated"] = unrelated_cosine(b.double(), b.double(), block_dims, groups=groups).mean()
    return {name: float(value) for name, value in values.items()}


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return every other row, and the rest; of an odd number the last row is left out."""
    if len(x) < FEWEST_FOR_DISTANCES:
        raise ValueError(f"similarity: distances need at least {FEWEST_FOR_DISTANCES} embeddings, got {len(x)}")
    even = len(x) // 2 * 2
    return x[0:even:2], x[1:even:2]


def embedding_report(
    a: Float[Tensor, "batch embed"],
    b: Float[Tensor, "batch embed"],
    block_dims: Sequence[int],
    *,
    groups: Int[Tensor, " batch"] | None = None,
) -> dict[str, float]:
    """Return every measure of pairs as named numbers.

    ``cosine_true`` and ``cosine_unrelated`` are averaged over blocks (``<name>_block_<i>`` gives each of several);
    ``groups`` are those of related pairs (:func:`unrelated_cosine`), and where all are, there is no unrelated cosine;
    ``cosine_centred`` = :func:`centred_cosine`, 0 for the mean embedding;
    ``norm_ratio`` = mean norm of a / mean norm of b; ``variance_ratio`` = total variance of a / total variance of b;
    ``retrieval_at_<r>`` = fraction of rows whose true embedding ranks r or better.
    """
    require_finite_rows(generated=a, true=b)
    a, b = a.double(), b.double()
    ranks = retrieval_ranks(a, b, block_dims)
    report = {
        "cosine_true": block_cosine(a, b, block_dims).mean(),
        "cosine_centred": centred_cosine(a, b, block_dims).mean(),
        "norm_ratio": a.norm(dim=-1).mean() / b.norm(dim=-1).mean(),
        "variance_ratio": a.var(0).sum() / b.var(0).sum(),
        **{f"retrieval_at_{r}": (ranks <= r).double().mean() for r in RETRIEVAL_RANKS},
    }
    if len(block_dims) > 1:
        for i, (x, y) in enumerate(zip(blocks_of(a, block_dims), blocks_of(b, block_dims), strict=True)):
            report[f"cosine_true_block_{i}"] = F.cosine_similarity(x, y, dim=-1).mean()
    report |= {name: values.mean() for name, values in unrelated_columns(a, b, block_dims, groups).items()}
    return {name: float(value) for name, value in report.items()}
