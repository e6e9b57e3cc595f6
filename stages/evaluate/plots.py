"""Heat maps of what was asked and what was generated."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.evaluate.scene_measures import WORDS, Readings


def confusion_plot(readings: Readings) -> bytes:
    """Return a PNG: accuracy for each shape and color, and what was read for each shape and each color asked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 5), layout="constrained")
    axes = figure.subplots(1, 3)
    shapes, colors = WORDS["shape"], WORDS["color"]
    panels = (
        ("fraction with both right", readings.accuracy_by_pair().numpy(), shapes, colors, "color asked", "shape asked"),
        ("shape", readings.confusion("shape").numpy(), shapes, shapes, "shape read", "shape asked"),
        ("color", readings.confusion("color").numpy(), colors, colors, "color read", "color asked"),
    )
    for axis, (title, values, rows, columns, across, down) in zip(axes, panels, strict=True):
        _heat_map(axis, values, rows, columns)
        axis.set(title=title, xlabel=across, ylabel=down)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()


def _heat_map(axis: Any, values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    axis.imshow(values, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=45)
    axis.set_yticks(range(len(rows)), rows)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "white" if value > 0.6 else "black"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
