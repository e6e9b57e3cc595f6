"""What an inspection found, before it is shown as text, JSON or a page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FIGURES = ("name", "value")


@dataclass(frozen=True)
class Table:
    """Rows below headings; cells are texts, whole numbers or numbers."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows by heading."""
        return [dict(zip(self.headings, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Image:
    """A PNG; ``name`` is its file's, without the suffix."""

    name: str
    title: str
    png: bytes


Block = Table | Image


@dataclass
class Findings:
    """What is known of one artifact."""

    stage: str
    fingerprint: str
    uri: str
    state: str
    """done, partial or new."""
    blocks: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_figures(self, title: str, figures: Mapping[str, Any]) -> None:
        """Add a table of names and values, unless there are none."""
        self.add_table(title, FIGURES, list(figures.items()))

    def add_table(self, title: str, headings: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table, unless it is empty."""
        if rows:
            self.blocks.append(Table(title, headings, rows))

    def add_image(self, name: str, title: str, png: bytes) -> None:
        """Add an image, under the stage's name."""
        file = re.sub(r"[^\w.-]", "_", f"{self.stage}_{self.fingerprint}_{name}", flags=re.ASCII)
        self.blocks.append(Image(file, title, png))

    def to_json(self, images: Mapping[str, str]) -> dict[str, Any]:
        """Return everything JSON-ready; ``images`` says where each was written, by name."""
        tables = [block for block in self.blocks if isinstance(block, Table)]
        shown = [block for block in self.blocks if isinstance(block, Image)]
        return {
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "uri": self.uri,
            "state": self.state,
            "notes": self.notes,
            "tables": {table.title: _as_figures(table) for table in tables},
            "images": [{"title": one.title, "path": images.get(one.name)} for one in shown],
        }


def _as_figures(table: Table) -> Any:
    return {row[0]: row[1] for row in table.rows} if table.headings == FIGURES else table.records
