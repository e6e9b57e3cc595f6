"""The options of ``corgi export``; heavy imports are inside, so that ``--help`` answers at once."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.options import StoreOption
from pipeline.terminal import echo


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's id or its beginning")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder to write; it must not exist yet")],
    *,
    licence: Annotated[
        str | None, typer.Option("--licence", help="of the model, for its card: a name or SPDX id")
    ] = None,
    store: StoreOption = "workspace",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
) -> None:
    """Write a finished run's model into a folder that needs no store: weights, configs, model card.

    The folder is given to others as it is: `corgi generate DIR` and TextToImage.load(DIR) take it.
    """
    from pipeline.store import Store

    found = Store(store)
    found.check_format()
    record = found.find_run(run)  # a wrong name is reported before torch is loaded

    from pipeline.export.export import export_run

    files = export_run(found, record, folder, licence=licence)
    if as_json:
        echo(json.dumps({"run": record.run, "folder": str(folder), "files": files}, indent=1))
        return
    size = sum((folder / name).stat().st_size for name in files)
    echo(f"{folder}: {len(files)} files, {size / 1e6:.1f} MB, of run {record.run}")
    echo(f'use it: corgi generate {folder} --prompt "…" --out images, or in Python: TextToImage.load("{folder}")')
