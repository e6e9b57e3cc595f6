"""What ``corgi inspect`` finds of an artifact, before it is printed, or written as JSON or a page.

A stage may have ``inspect.py`` with ``inspect(artifact, findings, context) -> None``, which adds what it knows.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stages.storage.artifact import Artifact

T = TypeVar("T")
QUANTILES = {"smallest": 0.0, "10 %": 0.1, "median": 0.5, "90 %": 0.9, "largest": 1.0}

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
    """A PNG."""

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

    def add_image(self, title: str, png: bytes) -> None:
        """Add an image."""
        self.blocks.append(Image(title, png))

    def to_json(self) -> dict[str, Any]:
        """Return everything JSON-ready, but of images the titles."""
        tables = [block for block in self.blocks if isinstance(block, Table)]
        shown = [block for block in self.blocks if isinstance(block, Image)]
        return {
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "uri": self.uri,
            "state": self.state,
            "notes": self.notes,
            "tables": {table.title: _as_figures(table) for table in tables},
            "images": [one.title for one in shown],
        }


def _as_figures(table: Table) -> Any:
    return {row[0]: row[1] for row in table.rows} if table.headings == FIGURES else table.records


@dataclass(frozen=True)
class InspectionContext:
    """What an inspection may read besides the artifact."""

    input_of: Callable[[str], Artifact | None]
    """The artifact of a stage that this one was made from; none: unknown."""
    max_shards: int
    """The most shards of an artifact to read."""


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most so many items, spread evenly."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / max(1, count - 1))] for index in range(count)]


def quantiles(values: Sequence[float]) -> list[float]:
    """Return smallest, first decile, median, last decile and largest."""
    ordered = sorted(values)
    return [ordered[round(fraction * (len(ordered) - 1))] for fraction in QUANTILES.values()]


def histogram(values: Iterable[int]) -> list[tuple[str, int, str]]:
    """Count by powers of two: range, count, fraction."""
    bins = collections.Counter(value.bit_length() for value in values)
    total = sum(bins.values())
    return [
        (f"{(1 << bits) >> 1} to {(1 << bits) - 1}", count, f"{count / total:.1%}")
        for bits, count in sorted(bins.items())
    ]
