"""The options of ``corgi report``; heavy imports are inside, so that ``--help`` answers at once."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.options import StoreOption
from pipeline.terminal import echo


def report(
    target: Annotated[str, typer.Argument(metavar="RUN|ARTIFACT", help="a run's id or its beginning, or a folder")],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="file to write; if not given, RUN.html here")] = None,
    shards: Annotated[int, typer.Option("--shards", min=1, help="most shards of each artifact to read")] = 16,
    store: StoreOption = "workspace",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
) -> None:
    """Write a run, or what one stage made, as one HTML file: what it is, how good, samples; details folded.

    The file needs nothing else and asks nothing of any server, so that it can be sent to anybody.
    """
    from pipeline.errors import UsageError
    from pipeline.html_report.page import report_page
    from pipeline.inspection.inspect import find_target
    from stages.storage.publishing import write_whole

    chosen = find_target(target, store)
    name = chosen.record.run if chosen.record else "-".join(chosen.title.split())
    file = out or Path(f"{name}.html")
    page = report_page(chosen, max_shards=shards)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, page.encode())
    except OSError as error:
        raise UsageError(
            f"--out: {file} cannot be written ({error.strerror}); give a file that you may write"
        ) from None
    if as_json:
        echo(json.dumps({"title": chosen.title, "file": str(file)}, indent=1))
    else:
        echo(f"{file}: {len(page.encode()) / 1e6:.1f} MB, {chosen.title}")
