"""``corgi track``: send what runs recorded while their tracking server was away."""

import json
from typing import Annotated

import typer

from pipeline.options import StoreOption
from pipeline.terminal import echo
from stages.contract.bounds import LONGEST_WAIT


def track(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="a run's id or its beginning; none: all runs of the store")
    ] = None,
    uri: Annotated[
        str | None, typer.Option("--uri", help="the server, where it has another address than the run recorded")
    ] = None,
    patience: Annotated[
        float,
        typer.Option("--patience", min=0, max=LONGEST_WAIT, help="seconds to wait for the server's replies"),
    ] = 60,
    store: StoreOption = "workspace",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
) -> None:
    """Send the records of runs that their tracking server did not take, and that the store keeps."""
    from pipeline.errors import PipelineError
    from pipeline.outbox.kept import Driven, has_kept, runs_to_send, send_kept
    from pipeline.store import Store

    found = Store(store)
    found.check_format()
    rows, waiting, driven = [], 0, 0
    for record in runs_to_send(found, run_id):
        sent, left = 0, 0
        try:
            if has_kept(found, record.run):
                _, sent, left = send_kept(record.run, found, uri, patience, report=lambda text: echo(text, err=True))
        except Driven as error:
            if run_id is not None:
                raise
            echo(f"tracking: {error}", err=True)  # the others are sent
            driven += 1
            continue
        rows.append({"run": record.run, "sent": sent, "left": left})
        waiting += left
        if not as_json:
            echo(f"run {record.run}: {sent} records sent, {left} left")
    if as_json:
        echo(json.dumps({"runs": rows}, indent=1))
    elif not rows and not driven:
        echo("nothing is kept: every record of every run was sent")
    if waiting:
        raise PipelineError(
            f"tracking: {waiting} records could not be sent, and stay in the store; try again when the server is back, "
            "or give its new address with --uri"
        )
