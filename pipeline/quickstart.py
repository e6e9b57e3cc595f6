"""The report of the quickstart: how often the images show what was asked, beside chance and a control."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.console import PlainTable, plain
from pipeline.record import RunRecord

ROWS = {
    "accuracy": "caption -> prior -> image",
    "control/unrelated": "control: the same images against unrelated captions",
    "control/text_embedding": "control: text embedding in place of the prior's",
    "reconstruction": "true image -> embedding -> image",
}
COLUMNS = ("color", "shape", "both")


def accuracy_table(record: RunRecord) -> PlainTable:
    """Return the accuracies that the scene checker (a rule, not a learned model) read off the images."""
    measured = record.figures("evaluate/")
    evaluated = record.stage("evaluate")
    images = None if evaluated is None else evaluated.items
    table = PlainTable(title=f"read off the images by the scene checker ({images} images)")
    table.heading("images")
    for heading in COLUMNS:
        table.heading(heading, justify="right")
    for prefix, label in ROWS.items():
        values = [measured.get(f"{prefix}/{column}") for column in COLUMNS]
        table.row(label, *("" if value is None else f"{value:.3f}" for value in values))
    return table


def grid_path(record: RunRecord) -> str:
    """Return where the grid of sample images lies."""
    return f"{record.artifacts['generate']}/grid.png"


def quickstart_report(console: Console, record: RunRecord) -> None:
    """Print the accuracies, the grid's path and the next commands."""
    console.print(accuracy_table(record))
    measured = record.figures("evaluate/")
    true, unrelated = measured.get("cosine/true"), measured.get("cosine/unrelated")
    if true is not None and unrelated is not None:
        console.print(f"prior's embedding, cosine to the true one {true:.3f}, to unrelated ones {unrelated:.3f}")
    corgi, store = _command(), record.config["store"]
    where = "" if store == "workspace" else f" --store {store}"
    prompt = "--prompt 'a large red star in the center' --out images"
    for label, text in (
        ("sample grid", grid_path(record)),
        ("dashboard", f"{corgi} dashboard{where}"),
        ("generate your own", f"{corgi} generate {record.run}{where} {prompt}"),
    ):
        console.print(plain(f"{label}: {text}"), soft_wrap=True)


def _command() -> str:
    """Return how to call corgi from here: by its name where the shell finds it, else by its path."""
    found = shutil.which("corgi")
    installed = Path(sys.executable).with_name("corgi")
    return "corgi" if found and Path(found).resolve() == installed.resolve() else os.path.relpath(installed)


def quickstart_document(record: RunRecord) -> dict[str, Any]:
    """Return the run as JSON-ready data, with the accuracies and the grid."""
    document = record.document()
    if record.status == "done":
        accuracy = record.figures("evaluate/accuracy/")
        document |= {"accuracy": {column: accuracy[column] for column in COLUMNS}, "grid": grid_path(record)}
    return document
