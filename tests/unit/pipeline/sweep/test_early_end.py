"""A sweep that an error ends in the middle: the table of what there is, and which runs were not started."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.errors import HeadLost, Unreachable
from pipeline.console import Terminal
from pipeline.errors import Superseded
from pipeline.experiment import Experiment
from pipeline.record import RunRecord
from pipeline.sweep.command import SweepOutcome, do_sweep
from pipeline.sweep.config import load_sweep
from pipeline.sweep.run import SweepResult, SweepRun, result_of_run, with_those_not_run
from stages.contract.errors import LeaseLost
from tests.factories import make_record
from tests.unit.pipeline.sweep.sweeps import write_sweep

TEXT = "cluster.address: no Ray cluster responds"


def swept(folder: Path, good: int, error: BaseException, console: Console) -> SweepOutcome:
    """Return the outcome of a sweep of ten runs of which so many end well, and the error meets the next one."""

    def run_all(runs: Sequence[SweepRun], documents: Mapping[str, str], _: Console) -> Iterator[SweepResult]:
        names = [run.experiment.plan.run for run in runs]

        def run_one(experiment: Experiment, _: Any) -> RunRecord:
            if names.index(experiment.plan.run) >= good:
                raise error
            return make_record(experiment.plan.run, metrics={"train_prior/cosine_true": 0.5})

        results = (result_of_run(run, documents, Terminal(stderr=True), run_one) for run in runs)
        yield from with_those_not_run(runs, results, documents)

    return do_sweep(load_sweep(write_sweep(folder, plots={})), [f"store={folder / 'store'}"], console, run_all)


@pytest.mark.parametrize(("error", "code"), [(Unreachable, 3), (HeadLost, 3), (LeaseLost, 3), (Superseded, 4)], ids=str)
def test_an_error_in_the_middle_leaves_a_table_and_names_what_was_not_run(
    tmp_path: Path, error: Callable[[str], Exception], code: int
) -> None:
    console = Console(record=True, width=400)
    outcome = swept(tmp_path, 3, error(TEXT), console)
    assert outcome.exit_code == code
    assert [run["status"] for run in outcome.document["runs"]] == ["done"] * 3 + ["failed"] + ["not run"] * 6
    assert outcome.document["runs"][3]["error"] == TEXT
    rows = list(csv.reader((outcome.folder / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [row[1] for row in rows[1:]] == ["0.5 ± 0", "0.5 (1 of 2)", *["not run"] * 3]
    said = console.export_text()
    assert TEXT in said
    assert "6 of 10 runs were not started (shifted, num_gaussians 2, kappa 1, repeat 0; " in said
    assert "and 3 more" in said
    assert outcome.document["ended_by"].startswith(f"sweep: ended early: {TEXT}")


def test_a_signal_in_the_middle_leaves_a_table_and_goes_on_as_a_signal(tmp_path: Path) -> None:
    console = Console(record=True, width=400)
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, 4, KeyboardInterrupt(), console)
    said = console.export_text()
    assert "sweep: ended early: interrupted" in said
    assert "5 of 10 runs were not started (" in said
    (table,) = tmp_path.rglob("table.csv")
    rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines()))
    assert [row[1] for row in rows[1:]] == ["0.5 ± 0", "0.5 ± 0", "interrupted (1 of 2)", "not run", "not run"]
    assert all(row[1] in said for row in rows)


def test_an_error_at_the_first_run_leaves_a_table_too(tmp_path: Path) -> None:
    outcome = swept(tmp_path, 0, Unreachable(TEXT), Console(record=True, width=400))
    assert outcome.exit_code == 3
    cells = (outcome.folder / "table.csv").read_text(encoding="utf-8")
    assert "failed (1 of 2)" in cells
    assert cells.count("not run") == 4


def test_a_sweep_that_nothing_ends_early_has_no_such_line(tmp_path: Path) -> None:
    outcome = swept(tmp_path, 10, Unreachable(TEXT), Console(record=True, width=400))
    assert outcome.exit_code == 0
    assert "ended_by" not in outcome.document
