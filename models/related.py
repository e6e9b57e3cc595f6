"""Which pairs of a caption and an image are related: of one caption, or of one image, and so of no other truth.

A cosine to *unrelated* images says what a prior reaches that ignores its captions; images that show the caption, too,
would raise it the more, the fewer different captions there are.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

SAME = 1 - 1e-6
"""The cosine of embeddings of one caption or image, but for rounding; it is lower for all others."""
UNRELATED_PAIRS = "of another caption and image"
"""What unrelated pairs are, as protocols of figures hold it."""
_COMPARED_AT_ONCE = 512


def groups_of_same(rows: Float[Tensor, "rows embed"]) -> Int[Tensor, " rows"]:
    """Return for each row the number of the first one of its direction, which may be itself."""
    directions = F.normalize(rows.float(), dim=-1)
    firsts = []
    for part in torch.split(torch.arange(len(rows)), _COMPARED_AT_ONCE):
        same = directions[part] @ directions.T > SAME
        same[torch.arange(len(part)), part] = True  # a row of length 0 has no direction
        firsts.append(same.int().argmax(1))
    return torch.cat(firsts or [torch.zeros(0, dtype=torch.int64)])


def groups_of_equal(texts: Sequence[str]) -> Int[Tensor, " rows"]:
    """Return for each text the number of the first one that is equal; one that is empty is like no other."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(text, row) if text else row for row, text in enumerate(texts)])


def joined_groups(*groupings: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Return the groups of rows that are in one by any of these groupings, directly or by way of others.

    Groups have the number of one of their rows.
    """
    joined = torch.arange(len(groupings[0]))
    while True:
        before = joined
        for grouping in groupings:
            least = torch.full_like(joined, len(joined)).scatter_reduce(0, grouping, joined, "amin")
            joined = least[grouping]
        if torch.equal(joined, before):
            return joined


def is_one_group(groups: Int[Tensor, " rows"]) -> bool:
    """Whether all rows are related, so that none has an unrelated one."""
    return len(groups) == 0 or bool((groups == groups[0]).all())
