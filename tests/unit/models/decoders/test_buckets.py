"""Buckets: their sizes and areas by hand, which one an image belongs to, and what is cropped away."""

import math

import numpy as np
import pytest
import torch

from models.decoders.bucket_fit import cropped_fraction, nearest_buckets
from models.decoders.buckets import (
    BucketSettings,
    DecoderBuckets,
    chosen_size,
    parse_size,
    size_name,
)
from models.decoders.size_conditioning import size_features, whole_images
from models.fields import given_fields


def test_sizes_by_hand() -> None:
    # 64² / 48 = 85.3, and 80 is the nearest multiple of 16; 64² / 32 = 128 has a ratio of 4.
    assert BucketSettings(step=16).sizes(64) == ((48, 80), (64, 64), (80, 48))
    assert BucketSettings(step=16, max_aspect_ratio=4.0).sizes(64)[-1] == (128, 32)
    # The sizes of SDXL (appendix I) up to a ratio of 2.
    wide = {(1024, 1024), (1088, 960), (1152, 896), (1280, 832), (1344, 768)}
    assert set(BucketSettings(step=64).sizes(1024)) == wide | {(height, width) for width, height in wide}


@pytest.mark.parametrize(("resolution", "step"), [(64, 16), (64, 8), (512, 64), (512, 8), (1024, 64), (32, 8)])
@pytest.mark.parametrize("ratio", [2.0, 4.0])
def test_areas_are_about_the_squares(resolution: int, step: int, ratio: float) -> None:
    settings = BucketSettings(step=step, max_aspect_ratio=ratio)
    settings.require_fit(resolution, cell=step)
    sizes = settings.sizes(resolution)
    assert len(set(sizes)) == len(sizes)
    assert sorted(sizes) == sorted((height, width) for width, height in sizes)
    assert [width / height for width, height in sizes] == sorted(width / height for width, height in sizes)
    for width, height in sizes:
        assert width % step == height % step == 0
        assert max(width, height) <= ratio * min(width, height)
        assert abs(width * height / resolution**2 - 1) <= step / (2 * resolution)


def test_an_image_belongs_to_the_nearest_ratio_by_its_logarithm() -> None:
    sizes = ((48, 80), (64, 64), (80, 48))
    border = math.sqrt(80 / 48)  # as far from 1 as from 80 / 48
    widths = [100, 100 * border - 0.5, 100 * border + 0.5, 1000, 100 / border + 0.5, 100 / border - 0.5, 1]
    heights = [100, 100, 100, 10, 100, 100, 50]
    assert nearest_buckets(widths, heights, sizes).tolist() == [1, 1, 2, 2, 1, 0, 0]


def test_what_is_cropped_away_by_hand() -> None:
    # 120 x 36 covers 40 x 24 as 80 x 24: half is cropped; 40 x 80 covers 48 x 80 as 48 x 96: a sixth.
    found = cropped_fraction([120, 40, 64], [36, 80, 64], [(40, 24), (48, 80), (64, 64)])
    np.testing.assert_allclose(found, [1 / 2, 1 / 6, 0])


@pytest.mark.parametrize(
    "name", ["", "96", "96x", "x64", "0x64", "-96x64", "96x64x1", "96 x 64", "²x64", "9" * 50 + "x1"]
)
def test_what_is_no_size_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"size: found .* such as 96x64"):
        parse_size(name)


def test_a_size_is_chosen_among_those_there_are() -> None:
    sizes = BucketSettings(step=16).sizes(64)
    assert chosen_size(None, sizes) == (64, 64)
    assert [chosen_size(size_name(size), sizes) for size in sizes] == list(sizes)
    with pytest.raises(ValueError, match=r"found 96x64: allowed are .*: 48x80, 64x64, 80x48"):
        chosen_size("96x64", sizes)


@pytest.mark.parametrize(
    ("settings", "cell", "message"),
    [({"step": 8}, 16, "multiple of 16"), ({"step": 32}, 16, "4 times or more"), ({"step": 24}, 8, "divides the"),
     ({"step": 16, "max_aspect_ratio": 1.2}, 16, "another size than 64 x 64")],
)  # fmt: skip
def test_steps_that_do_not_fit_are_refused(settings: dict[str, float], cell: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BucketSettings(**settings).require_fit(64, cell)  # type: ignore[arg-type]


def test_settings_that_are_shared_and_absent() -> None:
    assert DecoderBuckets(step=8, size_conditioning=True).shared() == BucketSettings(step=8)
    assert {item.name for item in given_fields(BucketSettings(step=8))} == {"step", "max_aspect_ratio"}


def test_features_of_sizes_are_sines_and_cosines_of_each_number() -> None:
    sizes = torch.tensor([[72.0, 240.0, 0.0, 20.0, 24.0, 40.0]])
    features = size_features(sizes, 4)  # of each: cos and sin at the frequencies 1 and 1 / 100
    angles = sizes[0, :, None] * torch.tensor([1.0, 0.01])
    expected = torch.cat([angles.cos(), angles.sin()], dim=1)
    torch.testing.assert_close(features, expected.reshape(1, -1))
    assert whole_images(24, 40, torch.zeros(2, 1)).tolist() == [[24, 40, 0, 0, 24, 40]] * 2
