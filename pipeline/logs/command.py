"""``corgi logs RUN [STAGE]``."""

from typing import Annotated

import typer

from pipeline.options import StoreOption
from pipeline.terminal import echo


def logs(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="a run's id or its beginning")],
    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="only this stage's")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="go on with what is added, until the run is over")] = False,
    tail: Annotated[int, typer.Option("--tail", min=1, help="how many of the newest lines to begin with")] = 1000,
    *,
    store: StoreOption = "workspace",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document a line")] = False,
) -> None:
    """Show what the stages of a run have logged, on whichever machine."""
    from pipeline.console import Terminal
    from pipeline.logs.reader import RunLogReader, lines_until_over, log_table
    from pipeline.store import Store

    found = Store(store)
    found.check_format()
    record = found.find_run(run_id)
    reader = RunLogReader(found, record, stage)
    console = Terminal()
    lines = reader.new_lines()
    if as_json:
        for line in lines[-tail:]:
            echo(line.model_dump_json())
    else:
        console.print(log_table(lines[-tail:], f"logs of run {record.run}", len(lines)))
    for line in lines_until_over(reader, record, found) if follow else ():
        echo(line.model_dump_json() if as_json else line.text())
    if reader.damaged:
        echo(f"{reader.damaged} damaged lines were left out", err=True)
