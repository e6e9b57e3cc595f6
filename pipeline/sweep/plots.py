"""Plots of a sweep: a figure of every variant against a number, with the spread over the repeats as a band."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UsageError
from pipeline.sweep.config import PlotConfig, Variant, as_yaml, format_value, number_of
from pipeline.sweep.report import VariantFigures
from stages.contract.texts import one_line, printable
from stages.storage.publishing import write_whole

Curve = dict[float, Sequence[float]]

_NUM_COLORS = 10  # of matplotlib's own cycle, after which the next style begins
_MOST_TICKS = 12
_LONGEST_TEXT = 100  # characters
_STYLES = ("-", "--", ":", "-.")


def write_plot(plot: PlotConfig, rows: Sequence[VariantFigures], path: Path) -> bool:
    """Write one plot as PNG; return False where no variant has the figure; UsageError: it cannot be plotted."""
    curves = curves_of(plot, rows)
    if not curves:
        return False
    try:
        png = _png_of(plot, curves, rows)
    except Exception as error:  # noqa: BLE001  matplotlib has no error of its own for figures that no axis holds
        raise UsageError(
            f"it cannot be plotted ({one_line(error, 200)}); table and other plots are not affected"
        ) from None
    write_whole(path, png)
    return True


def _png_of(plot: PlotConfig, curves: Sequence[tuple[str, Curve]], rows: Sequence[VariantFigures]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axis = figure.subplots()
    repeats = max(row.repeats for row in rows)  # of all variants alike
    lines = [
        _add_curve(axis, curve, style=_STYLES[number // _NUM_COLORS % len(_STYLES)], repeats=repeats)
        for number, (_, curve) in enumerate(curves)
    ]
    axis.set_xlabel(_text(plot.x_label or plot.x or ""), parse_math=False)  # a $ is no formula, here and below
    axis.set_ylabel(_text(plot.figure), parse_math=False)
    if plot.log_x:
        axis.set_xscale("log", base=2)
        values = sorted({x for _, curve in curves for x in curve})
        if len(values) <= _MOST_TICKS:  # else the axis chooses
            axis.set_xticks(values, labels=[f"{value:g}" for value in values], minor=False)
            axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    if labels := axis_labels(plot, rows):
        axis.set_xticks(range(len(labels)), labels=list(map(_text, labels)), parse_math=False)
    axis.grid(alpha=0.3)
    names = [_text(label) for label, _ in curves]  # given one by one: by itself it leaves out what begins with _
    legend = axis.legend(lines, names, fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    for text in legend.get_texts():
        text.set_parse_math(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()


def _text(text: str) -> str:
    """Return what a plot shows of a text: what a font has, and not 100,000 characters, which take it a minute."""
    return printable(text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…")


def curves_of(plot: PlotConfig, rows: Sequence[VariantFigures]) -> list[tuple[str, Curve]]:
    """Return label and points of each curve; two may have the same label."""
    shown = _shown(plot, rows)
    curves = _curves_by_name(plot, shown) if plot.x is None else _curves_by_setting(plot, shown)
    return [(label, curve) for label, curve in curves if curve]


def axis_labels(plot: PlotConfig, rows: Sequence[VariantFigures]) -> list[str]:
    """Return the labels of the ticks 0, 1, … of an axis whose values are not all numbers; of another one, none."""
    return [format_value(plot.x or "", value) for value in _ticks(plot, _shown(plot, rows)).values()]


def _shown(plot: PlotConfig, rows: Sequence[VariantFigures]) -> list[VariantFigures]:
    return [row for row in rows if plot.groups is None or row.variant.group in plot.groups]


def _ticks(plot: PlotConfig, rows: Sequence[VariantFigures]) -> dict[str, Any]:
    """Return the different values of the axis in their order, where they are not all numbers."""
    axis = plot.x or ""
    values = [row.variant.grid[axis] for row in rows if axis in row.variant.grid]
    is_numeric = all(number_of(value) is not None for value in values)
    return {} if is_numeric else {as_yaml(value): value for value in values}


def _add_curve(axis: Any, curve: Curve, *, style: str, repeats: int) -> Any:
    """Draw the means and their spread, and return the line; a point of fewer repeats says of how many."""
    x = sorted(curve)
    mean = np.array([np.mean(curve[value]) for value in x])
    spread = np.array([np.std(curve[value], ddof=1) if len(curve[value]) > 1 else 0.0 for value in x])
    (line,) = axis.plot(x, mean, marker="o", markersize=3, linestyle=style)
    axis.fill_between(x, mean - spread, mean + spread, alpha=0.08, color=line.get_color(), linewidth=0)
    for value, height in zip(x, mean, strict=True):
        if (count := len(curve[value])) < repeats:
            beside = {"xytext": (3, 3), "textcoords": "offset points"}
            axis.annotate(
                f"{count} of {repeats}", (value, height), fontsize="xx-small", color=line.get_color(), **beside
            )
    return line


def _curves_by_name(plot: PlotConfig, rows: Sequence[VariantFigures]) -> list[tuple[str, Curve]]:
    """One curve a variant; the number that the figure's * stands for is the axis."""
    return [(row.variant.label, dict(_numbered(plot.pattern, row.values))) for row in rows]


def _numbered(
    pattern: re.Pattern[str], values: Mapping[str, Sequence[float]]
) -> Iterator[tuple[float, Sequence[float]]]:
    for name, found in values.items():
        if match := pattern.fullmatch(name):
            yield float(match[1]), found


def _curves_by_setting(plot: PlotConfig, rows: Sequence[VariantFigures]) -> list[tuple[str, Curve]]:
    """One curve for the variants that differ in the axis's key only."""
    curves: dict[tuple[str, ...], tuple[str, Curve]] = {}
    ticks = list(_ticks(plot, rows))
    for row in rows:
        grid, found = dict(row.variant.grid), row.values.get(plot.figure)
        if plot.x not in grid or found is None:
            continue
        x = grid.pop(plot.x)
        rest = Variant(row.variant.group, grid, grid)
        at = float(ticks.index(as_yaml(x)) if ticks else x)
        curves.setdefault(rest.key, (rest.label, {}))[1][at] = found
    return list(curves.values())
