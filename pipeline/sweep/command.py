"""The whole of ``corgi sweep``: run, gather, write, print."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.console import PlainTable, plain
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.plots import write_plot
from pipeline.sweep.report import by_variant, sweep_document, sweep_table, sweep_warnings, write_tables
from pipeline.sweep.run import SweepRun, open_sweep, run_sweep, sweep_folder


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep gives: for the terminal, for programs, and whether every run ended well."""

    table: PlainTable
    document: dict[str, Any]
    folder: Path
    failed: int


def sweep_plan(sweep: SweepConfig, overrides: Sequence[str]) -> list[tuple[SweepRun, int]]:
    """Return every run of the sweep with the number of its stages that are not done."""
    runs = open_sweep(sweep, overrides)
    return [(run, sum(stage.state != "done" for stage in run.experiment.plan.stages.values())) for run in runs]


def do_sweep(sweep: SweepConfig, overrides: Sequence[str], console: Console) -> SweepOutcome:
    """Run what is not done, and write table and plots; a plot whose figure no run has is reported instead.

    Raises:
        UsageError: some runs cannot be run as they are; nothing was started.
        Superseded: another driver has taken over what a run was making.
    """
    runs = open_sweep(sweep, overrides)
    results = list(run_sweep(runs, sweep.documents, console))
    rows = by_variant(results)
    folder = sweep_folder(runs, sweep.name)
    write_tables(sweep, rows, folder)
    for name, plot in sweep.plots.items():
        if not write_plot(plot, rows, folder / f"{name}.png"):
            console.print(plain(f"plots.{name}: no run has the figure {plot.figure}"))
    warnings = sweep_warnings(sweep, results)
    for line in warnings:
        console.print(plain(line))
    failed = sum(not result.is_whole for result in results)
    document = {"sweep": sweep.name, "folder": str(folder), "not_comparable": warnings}
    document |= sweep_document(rows, results)
    return SweepOutcome(sweep_table(sweep, rows), document, folder, failed)
