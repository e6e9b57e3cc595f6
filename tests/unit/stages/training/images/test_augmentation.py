"""Random crops and flips: by position, exact where nothing is resampled, never of images to validate on."""

import pytest
import torch

from stages.training.images.augmentation import augmented, augmented_bytes
from stages.training.images.augmentation_config import ImageAugmentation
from stages.training.task import BatchPart

IMAGES = torch.arange(16 * 8 * 8 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(16, 8, 8, 3)
WHOLE = BatchPart(3, 0, 16, 16)


def test_flips_are_exact_and_half_of_all() -> None:
    changed = augmented_bytes(IMAGES, WHOLE, ImageAugmentation(flip=0.5), seed=1)
    mirrored = [torch.equal(one, image.flip(1)) for one, image in zip(changed, IMAGES, strict=True)]
    same = [torch.equal(one, image) for one, image in zip(changed, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 3 < sum(mirrored) < 13
    assert torch.equal(augmented_bytes(IMAGES, WHOLE, ImageAugmentation(flip=1.0), seed=1), IMAGES.flip(2))


@pytest.mark.parametrize("config", [ImageAugmentation(flip=0.5), ImageAugmentation(crop=0.3, flip=0.5)])
def test_it_depends_on_seed_and_position_alone(config: ImageAugmentation) -> None:
    whole = augmented_bytes(IMAGES, WHOLE, config, seed=1)
    halves = [augmented_bytes(IMAGES[n : n + 8], BatchPart(3, n, 8, 16), config, seed=1) for n in (0, 8)]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, augmented_bytes(IMAGES, WHOLE, config, seed=2))
    assert not torch.equal(whole, augmented_bytes(IMAGES, BatchPart(4, 0, 16, 16), config, seed=1))


def test_a_crop_shows_a_part_enlarged() -> None:
    ramp = torch.linspace(0, 1, 64).expand(16, 3, 64, 64)
    found = augmented(ramp, WHOLE, ImageAugmentation(crop=0.4), seed=1)
    widths = found[:, 0, 0, -1] - found[:, 0, 0, 0]
    assert 0.55 < float(widths.min()) < 0.75
    assert 0.9 < float(widths.max()) <= 1.0
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
