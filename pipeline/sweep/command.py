"""The whole of ``corgi sweep``: run, gather, write, print."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.head import last_words
from pipeline.console import PlainTable, plain
from pipeline.errors import Interrupted, PipelineError, UsageError
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.plots import write_plot
from pipeline.sweep.report import (
    by_variant,
    missing_figures,
    sweep_document,
    sweep_table,
    sweep_warnings,
    write_tables,
)
from pipeline.sweep.run import (
    ENDING,
    SweepResult,
    SweepRun,
    name_some,
    open_sweep,
    results_after,
    run_sweep,
    sweep_folder,
)
from stages.contract.secrets import redact

RunAll = Callable[[Sequence[SweepRun], Mapping[str, str], Console], Iterator[SweepResult]]
_FAILED = 3  # the exit code, as of a stage that failed


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep gives: for the terminal, for programs, and how the command ends."""

    table: PlainTable
    document: dict[str, Any]
    folder: Path
    failed: int
    """Runs that failed or lack figures; of those that were not run, none."""
    exit_code: int


def sweep_plan(sweep: SweepConfig, overrides: Sequence[str]) -> list[tuple[SweepRun, int]]:
    """Return every run of the sweep with the number of its stages that are not done."""
    runs = open_sweep(sweep, overrides)
    return [(run, sum(stage.state != "done" for stage in run.experiment.plan.stages.values())) for run in runs]


def do_sweep(
    sweep: SweepConfig, overrides: Sequence[str], console: Console, run_all: RunAll = run_sweep
) -> SweepOutcome:
    """Run what is not done, and write table and plots; a plot whose figure no run has is reported instead.

    An error that ends the sweep before its end is said, and table and plots are of the runs until then.

    Raises:
        UsageError: some runs cannot be run as they are; nothing was started.
        KeyboardInterrupt: a signal ended it; table and plots of the runs until then are written and shown.
    """
    runs = open_sweep(sweep, overrides)
    results: list[SweepResult] = []
    end: Exception | None = None

    def show_until_now(error: Exception) -> None:
        """Show what is there, where nothing is returned after this."""
        left = results_after(runs[len(results) :], error, sweep.documents)
        outcome = _outcome(sweep, runs, [*results, *left], console, error)
        console.print(outcome.table)

    try:
        with last_words(show_until_now):  # where the main thread waits for a Ray that is gone, and the process ends
            for result in run_all(runs, sweep.documents, console):
                results.append(result)  # one by one, for the last words
    except ENDING as error:
        end = error
    except KeyboardInterrupt:
        show_until_now(Interrupted("interrupted"))
        raise
    return _outcome(sweep, runs, results, console, end)


def _outcome(
    sweep: SweepConfig,
    runs: Sequence[SweepRun],
    results: Sequence[SweepResult],
    console: Console,
    end: Exception | None,
) -> SweepOutcome:
    """Write table and plots of the results, say what is to be said of them, and return them."""
    rows = by_variant(results)
    folder = sweep_folder(runs, sweep.name)
    write_tables(sweep, rows, folder)
    for name, plot in sweep.plots.items():
        try:
            if not write_plot(plot, rows, folder / f"{name}.png"):
                console.print(plain(f"plots.{name}: no run has the figure {plot.figure}"))
        except UsageError as error:
            console.print(plain(f"plots.{name}: {error}"))
    warnings = sweep_warnings(sweep, results)
    for line in [*missing_figures(sweep, rows), *warnings]:
        console.print(plain(line))
    failed = sum(result.was_run and not result.is_whole for result in results)
    document = {"sweep": sweep.name, "folder": str(folder), "not_comparable": warnings}
    code = _FAILED if failed else 0
    if end is not None:
        document["ended_by"] = message = _describe_end(end, results)
        console.print(plain(f"corgi: {message}"))
        code = end.exit_code if isinstance(end, PipelineError) else _FAILED
    document |= sweep_document(rows, results)
    return SweepOutcome(sweep_table(sweep, rows), document, folder, failed, code)


def _describe_end(error: Exception, results: Sequence[SweepResult]) -> str:
    left = [result.run.title for result in results if not result.was_run]
    rest = (
        f"{len(left)} of {len(results)} runs were not started ({name_some(left)})" if left else "all runs were started"
    )
    again = "what is finished is kept: run the same command again to go on"
    return f"sweep: ended early: {redact(str(error))}\n{rest}; {again}"
