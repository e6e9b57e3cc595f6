"""Pairs of one caption or image are no unrelated ones."""

import pytest
import torch
from torch.nn import functional as F

from models.metrics.pairs import pair_figures
from models.related import groups_of_equal, groups_of_same, is_one_group, joined_groups
from models.similarity import embedding_report, reference_report, unrelated_cosine

CAPTIONS = ("a", "b", "a", "c", "d", "b", "e", "f")
DIMS = [2, 4]


def rows(seed: int) -> torch.Tensor:
    return torch.randn(len(CAPTIONS), 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rows_of_one_direction_are_of_one_group_whatever_their_length() -> None:
    found = rows(0)
    found[5], found[6], found[7] = 3 * found[1], 0, 0
    assert groups_of_same(found).tolist() == [0, 1, 2, 3, 4, 1, 6, 7]  # without a length there is no direction
    many = found[:5].repeat(300, 1)  # more than are compared at a time
    assert groups_of_same(many).tolist() == list(range(5)) * 300


def test_groups_are_joined_over_several_steps() -> None:
    captions, images = groups_of_equal(CAPTIONS), torch.tensor([0, 1, 2, 2, 4, 4, 6, 7])
    assert captions.tolist() == [0, 1, 0, 3, 4, 1, 6, 7]
    joined = joined_groups(captions, images).tolist()
    assert [joined.index(group) for group in joined] == [0, 1, 0, 0, 1, 1, 6, 7]
    assert groups_of_equal(["", "a", "", "a"]).tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("part", [slice(0, 8), slice(3, 6)])
def test_the_unrelated_cosine_leaves_out_whatever_is_related(part: slice) -> None:
    a, b, groups = rows(1), rows(2), groups_of_equal(CAPTIONS)
    blocks = ((a[:, :2], b[:, :2]), (a[:, 2:], b[:, 2:]))
    matrix = torch.stack([F.cosine_similarity(x[:, None], y[None], dim=-1) for x, y in blocks]).mean(0)
    expected = torch.stack([matrix[row][groups != groups[row]].mean() for row in range(len(a))])[part]
    torch.testing.assert_close(unrelated_cosine(a[part], b, DIMS, first=part.start, groups=groups), expected)


def test_every_report_has_the_same_unrelated_cosine() -> None:
    a, b, groups = rows(1), rows(2), groups_of_equal(CAPTIONS)
    expected = float(unrelated_cosine(a, b, DIMS, groups=groups).mean())
    report, figures = embedding_report(a, b, DIMS, groups=groups), pair_figures(a, b, DIMS, seed=0, groups=groups)
    assert report["cosine_unrelated"] == pytest.approx(expected)
    assert {name: one.value for name, one in figures.items()} == pytest.approx(report)
    assert expected != pytest.approx(embedding_report(a, b, DIMS)["cosine_unrelated"])


def test_where_all_are_related_there_is_no_unrelated_cosine() -> None:
    a, b, one = rows(1), rows(2), torch.zeros(len(CAPTIONS), dtype=torch.int64)
    assert is_one_group(one)
    for names in (
        embedding_report(a, b, DIMS, groups=one),
        pair_figures(a, b, DIMS, seed=0, groups=one),
        reference_report(b, DIMS, groups=one),
    ):
        assert names
        assert not [name for name in names if "unrelated" in name]
    with pytest.raises(ValueError, match="at least 2 embeddings that are not related, got 8"):
        unrelated_cosine(a, b, DIMS, groups=one)
