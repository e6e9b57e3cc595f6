"""The options of ``corgi verify``; heavy imports are inside, so that ``--help`` answers at once."""

import json
from typing import Annotated

import typer

from pipeline.options import StoreOption
from pipeline.terminal import echo


def verify(
    target: Annotated[
        str | None, typer.Argument(metavar="[RUN|ARTIFACT]", help="a run's id or its beginning, or a folder")
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="all artifacts and runs of the store")] = False,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="move what is damaged away, so that the next run makes it again")
    ] = False,
    store: StoreOption = "workspace",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
) -> None:
    """Read all files of a run (the latest), and compare them with their checksums; exit code 1 where one differs."""
    from pipeline.console import Terminal
    from pipeline.verification.examine import examine, verification_document, verification_lines, verification_table
    from stages.contract.secrets import redact, redact_tree

    found = examine(target, store, everything=everything, set_aside=set_aside)
    if as_json:
        echo(json.dumps(redact_tree(verification_document(found)), indent=1))
    else:
        Terminal().print(verification_table(found))
    for line in verification_lines(found):
        echo(redact(line), err=True)
    if not found.is_whole:
        raise typer.Exit(1)
