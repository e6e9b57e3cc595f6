"""The report of the quickstart: how often the images show what was asked, beside chance and a control."""

from typing import Any

from pipeline.console import PlainTable
from pipeline.end_report import grid_path
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


def quickstart_document(record: RunRecord) -> dict[str, Any]:
    """Return the run as JSON-ready data, with the accuracies and the grid."""
    document = record.document()
    if record.status == "done":
        accuracy = record.figures("evaluate/accuracy/")
        document |= {"accuracy": {column: accuracy[column] for column in COLUMNS}, "grid": grid_path(record)}
    return document
