"""What a sweep found: mean and spread of every figure by variant, as a table, CSV, Markdown and JSON."""

import collections
import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import markdown
from pipeline.console import PlainTable
from pipeline.protocols import describe_differences, group_by_protocol
from pipeline.record import RunRecord
from pipeline.sweep.config import SweepConfig, Variant
from pipeline.sweep.run import SweepResult
from stages.contract.errors import nearest
from stages.storage.publishing import write_whole


@dataclass(frozen=True)
class VariantFigures:
    """All figures of a variant, one value for each repeat that ended well and has the figure."""

    variant: Variant
    values: Mapping[str, Sequence[float]]
    failed: int
    repeats: int
    """Those that failed or were not run as well."""
    not_run: int = 0
    interrupted: int = 0

    def cell(self, figure: str) -> str:
        """Return 'mean ± standard deviation' over the repeats, or why there is none; of fewer, of how many."""
        found = self.values.get(figure, ())
        if not found:
            ends = {"failed": self.failed, "interrupted": self.interrupted, "not run": self.not_run}
            return next((f"{end}{_of(count, self.repeats)}" for end, count in ends.items() if count), "-")
        spread = f" ± {statistics.stdev(found):.2g}" if len(found) > 1 else ""
        return f"{statistics.fmean(found):.4g}{spread}{_of(len(found), self.repeats)}"

    @property
    def incomplete(self) -> dict[str, int]:
        """The figures that fewer repeats have than there are, with how many."""
        return {name: len(found) for name, found in self.values.items() if len(found) < self.repeats}


def _of(count: int, repeats: int) -> str:
    return "" if count == repeats else f" ({count} of {repeats})"


def by_variant(results: Sequence[SweepResult]) -> list[VariantFigures]:
    """Gather the repeats of each variant, in the sweep's order."""
    grouped: dict[tuple[str, ...], list[SweepResult]] = {}
    for result in results:
        grouped.setdefault(result.run.variant.key, []).append(result)
    return [_gather(group) for group in grouped.values()]


def _gather(results: Sequence[SweepResult]) -> VariantFigures:
    names = sorted({name for result in results for name in result.figures})
    values = {name: [r.figures[name] for r in results if name in r.figures] for name in names}
    ends = collections.Counter(result.status for result in results)
    return VariantFigures(
        results[0].run.variant, values, failed=ends["failed"], repeats=len(results), not_run=ends["not run"],
        interrupted=ends["interrupted"],
    )  # fmt: skip


def sweep_table(sweep: SweepConfig, rows: Sequence[VariantFigures]) -> PlainTable:
    """Return the table for the terminal."""
    note = f" ({note})" if (note := _what_cells_are(sweep)) else ""
    table = PlainTable(title=f"sweep {sweep.name}{note}")
    table.heading("variant")
    for heading in sweep.table:
        table.heading(heading, justify="right")
    for row in rows:
        table.row(row.variant.label, *(row.cell(figure) for figure in sweep.table.values()))
    return table


def _what_cells_are(sweep: SweepConfig) -> str:
    return "" if sweep.repeat is None else f"mean ± standard deviation of {len(sweep.repeat.values)}"


def sweep_document(rows: Sequence[VariantFigures], results: Sequence[SweepResult]) -> dict[str, Any]:
    """Return everything as JSON-ready data."""
    return {
        "variants": [{"variant": row.variant.label, "settings": row.variant.shown_settings, "figures": row.values,
                      "repeats": row.repeats, "failed": row.failed, "not_run": row.not_run,
                      "of_fewer": row.incomplete} for row in rows],
        "runs": [{"run": r.record.run, "status": r.status, "variant": r.run.variant.label,
                  "repeat": r.run.repeat} | ({"error": r.error} if r.error else {}) for r in results],
    }  # fmt: skip


def sweep_warnings(sweep: SweepConfig, results: Sequence[SweepResult]) -> list[str]:
    """Say which figures of table and plots were not measured alike in all runs, and in what; seeds are to differ.

    A plot is of the runs of its groups, and where its figure holds a *, of every figure of that name with a number.
    """
    records = [result.record for result in results]
    lines = [line for heading, figure in sweep.table.items() for line in _differences(heading, figure, records)]
    for name, plot in sweep.plots.items():
        shown = [r.record for r in results if plot.groups is None or r.run.variant.group in plot.groups]
        pattern, said = plot.pattern, set(sweep.table.values())
        figures = {one for record in shown for one in record.measures if pattern.fullmatch(one)} - said
        found = [line for figure in sorted(figures) for line in _differences(f"plots.{name}", figure, shown)]
        lines += dict.fromkeys(found)  # of several figures, such as those of a curve's points, once
    return lines


def _differences(heading: str, figure: str, records: Sequence[RunRecord]) -> list[str]:
    metrics = [figure if figure in record.measures else None for record in records]
    return describe_differences(heading, group_by_protocol(records, metrics, but_for=("seed",)), records)


def missing_figures(sweep: SweepConfig, rows: Sequence[VariantFigures]) -> list[str]:
    """Say which figures of the table no run has, though some ended well: a name that is misspelt is seen so."""
    known = sorted({name for row in rows for name in row.values})
    wanted = sweep.table.items() if known else ()
    missing = [(heading, figure) for heading, figure in wanted if figure not in known]
    return [f"table.{heading}: no run has the figure {figure}{nearest(figure, known)}" for heading, figure in missing]


def write_tables(sweep: SweepConfig, rows: Sequence[VariantFigures], folder: Path) -> None:
    """Write table.csv and table.md into the folder; both say of how many repeats the cells are."""
    cells = [
        ["variant", *sweep.table],
        *([row.variant.label, *(row.cell(f) for f in sweep.table.values())] for row in rows),
    ]
    text, repeats = io.StringIO(newline=""), ["repeats", *(row.repeats for row in rows)]
    csv.writer(text).writerows([*line, number] for line, number in zip(cells, repeats, strict=True))
    write_whole(folder / "table.csv", text.getvalue().encode(errors="replace"))
    headings, *shown = [[markdown.escape(cell) for cell in line] for line in cells]
    lines = markdown.table(headings, shown, numeric_from=1)
    if note := _what_cells_are(sweep):
        lines += ["", f"{note} repeats; of fewer where a cell says so"]
    write_whole(folder / "table.md", ("\n".join(lines) + "\n").encode())
