"""Sheets of images to look at: a grid with the prompt, wrapped, under each image."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

TILE = 192  # a whole multiple of 32, 64 and 96 pixels, which then stay sharp
MARGIN = 12
FONT_SIZE = 13
LINE = 16
MOST_LINES = 5
INK, PAPER, FRAME = (30, 30, 30), (255, 255, 255), (200, 200, 200)

Images = UInt8[np.ndarray, "batch height width 3"]


def image_grid(images: Images, captions: Sequence[str], *, columns: int = 6) -> bytes:
    """Return a PNG of the images in reading order."""
    if len(images) != len(captions):
        raise ValueError(f"image_grid: found {len(captions)} captions for {len(images)} images: give one each")
    font = _font()
    texts = [_wrap(caption, font) for caption in captions]
    columns = max(1, min(columns, len(texts)))
    rows = [texts[start : start + columns] for start in range(0, len(texts), columns)]
    heights = [TILE + LINE * max(len(text) for text in row) + 2 * MARGIN for row in rows]
    sheet = Image.new("RGB", (columns * (TILE + MARGIN) + MARGIN, sum(heights) + MARGIN), PAPER)
    canvas = ImageDraw.Draw(sheet)
    top = MARGIN
    for row, height in enumerate(heights):
        for column, text in enumerate(rows[row]):
            left = MARGIN + column * (TILE + MARGIN)
            sheet.paste(_tile(images[row * columns + column]), (left, top))
            for number, line in enumerate(text):
                canvas.text((left, top + TILE + 4 + number * LINE), line, font=font, fill=INK)
        top += height
    return to_png(sheet)


def to_png(image: Image.Image) -> bytes:
    """Return the image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(pixels: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    image = Image.fromarray(pixels)
    larger = max(image.size)
    method = Image.Resampling.LANCZOS if TILE % larger else Image.Resampling.NEAREST
    image = image.resize([max(1, round(side * TILE / larger)) for side in image.size], method)
    tile = Image.new("RGB", (TILE, TILE), PAPER)
    tile.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
    ImageDraw.Draw(tile).rectangle((0, 0, TILE - 1, TILE - 1), outline=FRAME)
    return tile


def _wrap(caption: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """Break the caption into lines that fit under a tile; what is longer than the last line ends in an ellipsis."""
    letters = max(8, int(TILE / font.getlength("n")))
    return textwrap.wrap(caption, letters, max_lines=MOST_LINES, placeholder=" …") or [""]


def _font() -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib and writes most alphabets."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT_SIZE)
