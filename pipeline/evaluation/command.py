"""The options of ``corgi evaluate``; heavy imports are inside, so that ``--help`` answers at once."""

import json
import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from pipeline.options import StoreOption
from pipeline.terminal import echo


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a finished run's id or its beginning")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="of generate and evaluate")
    ] = None,
    *,
    store: StoreOption = "workspace",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
) -> None:
    """Evaluate a finished run anew, under other features or with other prompts; its own record stays as it is.

    What comes out is a run of its own, named RUN's name and -evaluated, which trains nothing and can be compared.
    """
    from pipeline.store import Store

    found = Store(store)
    found.check_format()
    record = found.find_run(run)  # a wrong name is reported before torch is loaded

    from pipeline.console import Terminal, plain
    from pipeline.evaluation.run import evaluate_again, figures_table

    with redirect_stdout(sys.stderr):  # where Ray prints warnings
        evaluated = evaluate_again(found, record, overrides or (), Terminal(stderr=True))
    if as_json:
        measures = evaluated.to_json().get("measures", {})
        echo(json.dumps(evaluated.document() | {"evaluates": record.run, "measures": measures}, indent=1))
    else:
        console = Terminal(stderr=False)
        console.print(figures_table(evaluated))
        console.print(plain(f"run {evaluated.run}: corgi compare {record.run} {evaluated.run}"), soft_wrap=True)
    if evaluated.status != "done":
        errors = [f"{entry.name}: {entry.error}" for entry in evaluated.stages if entry.error]
        echo("corgi: " + "; ".join(errors or ["the evaluation did not end"]), err=True)
        raise typer.Exit(3)
