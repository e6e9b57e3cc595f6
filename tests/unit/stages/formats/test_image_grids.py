import io

import numpy as np
import pytest
from PIL import Image

from stages.formats.image_grids import LINE, MARGIN, TILE, image_grid


def sheet_of(images: np.ndarray, captions: list[str], **options: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image_grid(images, captions, **options))))


def test_images_stand_in_reading_order_with_text_below() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = np.stack([np.full((8, 8, 3), color, np.uint8) for color in colors])
    sheet = sheet_of(images, ["one", "two", "three"], columns=2)
    middle, step = MARGIN + TILE // 2, TILE + MARGIN
    down = TILE + LINE + 2 * MARGIN
    assert [
        tuple(sheet[y, x]) for y, x in ((middle, middle), (middle, middle + step), (middle + down, middle))
    ] == colors
    under_first = sheet[MARGIN + TILE : MARGIN + TILE + 4 + LINE, MARGIN : MARGIN + TILE]
    assert (under_first < 100).any()


def test_a_long_caption_is_wrapped_and_stays_under_its_image() -> None:
    long = "a very long caption that does not fit under an image in one line, " * 6
    sheet = sheet_of(np.zeros((1, 16, 16, 3), np.uint8), [long])
    assert sheet.shape == (TILE + 5 * LINE + 3 * MARGIN, TILE + 2 * MARGIN, 3)
    assert (sheet[TILE + MARGIN :, TILE + MARGIN :] == 255).all()


def test_images_that_are_not_square_keep_their_form() -> None:
    sheet = sheet_of(np.zeros((1, 10, 20, 3), np.uint8), [""])
    dark = (sheet[MARGIN + 2 : MARGIN + TILE - 2, MARGIN + 2 : MARGIN + TILE - 2] < 10).all(axis=-1)
    assert 0.45 < dark.mean() < 0.55


def test_captions_and_images_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="found 1 captions for 2 images"):
        image_grid(np.zeros((2, 8, 8, 3), np.uint8), ["one"])
