"""The options of ``corgi init``; heavy imports are inside, so that ``--help`` answers at once."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.terminal import echo


def init(
    images: Annotated[
        str, typer.Argument(metavar="FOLDER|LIST", help="a folder of images, a list of addresses, or a webdataset")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="the YAML to write; none: NAME.yaml")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
) -> None:
    """Look at images, ask nothing, and write an experiment for them, with the reason for each value."""
    from pipeline.initialize.advice import advise
    from pipeline.initialize.document import document
    from pipeline.initialize.sources import default_name, source_of
    from pipeline.initialize.survey import survey
    from pipeline.initialize.write import write_new

    source = source_of(images)
    name = default_name(images)
    file = out or Path(f"{name}.yaml")
    found = survey(source)
    write_new(file, document(name, source, found, advise(found), str(file)))
    if as_json:
        about = {"entries": found.entries, "looked_at": found.looked_at, "captioned": found.captioned}
        echo(json.dumps({"file": str(file), "source": source, **about, "duplicates": found.duplicates}, indent=1))
        return
    echo(f"{file}: written, for {found.entries:,} entries, about {found.estimated_captioned:,} of them captioned")
    echo(f"next: corgi validate {file}; corgi plan {file}; corgi run {file}")
