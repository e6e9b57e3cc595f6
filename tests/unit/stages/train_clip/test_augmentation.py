"""What train_clip changes in its images, by the direct formulas, and that it belongs to the image's seed alone."""

import math

import pytest
import torch

from stages.train_clip.augmentation import augment, edges, mix_colors
from stages.train_clip.config import ClipAugmentation, ClipPreprocessing

HALVES = ClipPreprocessing()
NONE = {"contrast": 0, "brightness": 0, "noise": 0}


def step_image() -> torch.Tensor:
    """One image with colours from -1 to 1: left half black, right half white."""
    return torch.cat([-torch.ones(1, 3, 6, 4), torch.ones(1, 3, 6, 4)], dim=-1)


def test_contrast_and_brightness_have_the_asked_stds() -> None:
    changes = ClipAugmentation(contrast=0.2, brightness=0.1, noise=0.0)
    changed = augment(torch.ones(2000, 3, 2, 2), range(2000), changes, HALVES)[:, 0, 0, 0]
    assert changed.mean().item() == pytest.approx(1.0, abs=0.02)
    assert changed.std().item() == pytest.approx(math.hypot(0.2, 0.1), rel=0.05)


@pytest.mark.parametrize(
    "more", [{}, {"outlines": 0.5}, {"color": 0.2}, {"grayscale": 0.4}, {"outlines": 1, "color": 0.1}]
)
def test_changes_belong_to_the_seed(more: dict[str, float]) -> None:
    changes = ClipAugmentation(**more)
    pixels = torch.rand(3, 3, 8, 8) * 2 - 1
    alone = [augment(pixels[i : i + 1], [5 + i], changes, HALVES) for i in range(3)]
    assert torch.equal(augment(pixels, [5, 6, 7], changes, HALVES), torch.cat(alone))


def test_no_change_leaves_images_as_they_are() -> None:
    pixels = torch.rand(50, 3, 4, 4)
    assert torch.equal(augment(pixels, range(50), ClipAugmentation(**NONE), HALVES), pixels)


def test_outlines_darken_edges_alone_and_those_of_the_asked_fraction_of_images() -> None:
    pixels = step_image().expand(2000, -1, -1, -1)
    changed = augment(pixels, range(2000), ClipAugmentation(outlines=0.3, **NONE), HALVES)
    away = [0, 1, 2, 5, 6, 7]  # columns without an edge in their neighbourhood
    torch.testing.assert_close(changed[..., away], pixels[..., away])
    darker = 1 - changed[:, 0, 2, 4]  # beside the edge, of white
    assert (darker > 1e-4).float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert darker.max().item() <= 2 + 1e-5  # at most black
    strengths = darker[darker > 1e-4] / 2
    assert strengths.mean().item() == pytest.approx(0.5, abs=0.05)  # uniform in [0, 1)
    torch.testing.assert_close(changed[:, :, :, 3], pixels[:, :, :, 3])  # black stays black


def test_outlines_are_alike_whatever_the_colours_are_normalised_by() -> None:
    openai = ClipPreprocessing(mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    mean, std = torch.tensor(openai.mean).view(3, 1, 1), torch.tensor(openai.std).view(3, 1, 1)
    colors = torch.rand(20, 3, 8, 8)
    changes = ClipAugmentation(outlines=1, **NONE)
    here = augment((colors - 0.5) / 0.5, range(20), changes, HALVES) * 0.5 + 0.5
    there = augment((colors - mean) / std, range(20), changes, openai) * std + mean
    torch.testing.assert_close(here, there)
    assert (here - colors).abs().max() > 0.1


def test_half_of_the_range_is_a_whole_edge() -> None:
    colors = torch.zeros(1, 3, 4, 6)
    colors[..., 3:] = 0.1
    torch.testing.assert_close(edges(colors)[0, 0, 0], torch.tensor([0, 0, 0.2, 0.2, 0, 0]))
    assert edges(colors * 9)[0, 0, 0, 2].item() == 1.0


def test_colours_are_mixed_by_the_matrix_and_moved_by_the_offset() -> None:
    pixels, changes = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4)
    found = mix_colors(pixels, changes)
    for image, change, one in zip(pixels, changes, found, strict=True):
        matrix = torch.eye(3) + change[:, :3]
        torch.testing.assert_close(one[:, 1, 2], matrix @ image[:, 1, 2] + change[:, 3])


def test_the_asked_fraction_of_images_loses_its_colours() -> None:
    pixels = torch.rand(2000, 3, 2, 2)
    changed = augment(pixels, range(2000), ClipAugmentation(grayscale=0.25, **NONE), HALVES)
    is_grey = (changed - changed.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-6
    assert is_grey.float().mean().item() == pytest.approx(0.25, abs=0.04)
    torch.testing.assert_close(changed[is_grey].mean(1), pixels[is_grey].mean(1))
    assert torch.equal(changed[~is_grey], pixels[~is_grey])


def test_what_is_not_set_is_no_part_of_the_identity() -> None:
    assert set(ClipAugmentation().identity()) == {"contrast", "brightness", "noise"}
    assert (
        ClipAugmentation(outlines=0.5, grayscale=0.1).identity().items() >= {"outlines": 0.5, "grayscale": 0.1}.items()
    )


@pytest.mark.parametrize("changes", [{"outlines": 1.1}, {"grayscale": -0.1}, {"color": -1}, {"color": float("nan")}])
def test_impossible_amounts_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        ClipAugmentation(**changes)
