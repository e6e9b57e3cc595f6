"""The grid to look at: columns are prompts, rows are the true drawing, ours, and without a prior."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from benchmarks.drawings_sides.truth import Truth
from stages.formats.image_grids import INK, LINE, MARGIN, PAPER, image_grid

ROWS = ("ours", "no prior")


def write_sheet(path: Path, truth: Truth, parts: Sequence[tuple[Sequence[int], Mapping[str, np.ndarray]]]) -> None:
    """Write the PNG of the first prompts of every part, with the works and licences under it and in its text."""
    rows = [row for chosen, _ in parts for row in chosen]
    images = [truth.images[rows], *(np.concatenate([sets[name] for _, sets in parts]) for name in ROWS)]
    captions = [f"{truth.names[row]}: true" for row in rows] + [name for name in ROWS for _ in rows]
    grid = Image.open(io.BytesIO(image_grid(np.concatenate(images), captions, columns=len(rows))))
    lines = [str(work) for work in truth.works]
    sheet = Image.new("RGB", (grid.width, grid.height + LINE * len(lines) + MARGIN), PAPER)
    sheet.paste(grid, (0, 0))
    canvas = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        canvas.text((MARGIN, grid.height + LINE * number), line, fill=INK)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Copyright", "\n".join(lines))
    sheet.save(path, pnginfo=info)
