"""The console, tables and texts that are printed; see :mod:`pipeline.terminal`."""

import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pipeline.terminal import indented
from stages.contract.texts import printable

WIDTH_WITHOUT_TERMINAL = 120


class Terminal(Console):
    """A console that reads no markup and sends no control characters but its own."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        terminal = (sys.stderr if stderr else sys.stdout).isatty()
        given = {"width": None if terminal else WIDTH_WITHOUT_TERMINAL} | options
        super().__init__(stderr=stderr, markup=False, emoji=False, **given)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the parts of what is printed, each of them printable; rich's own sequences are apart from them."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class PlainTable(Table):
    """A table whose title, headings and cells are shown as they are, on whichever console."""

    def __init__(self, *, title: str = "", **options: Any) -> None:
        super().__init__(title=plain(title) if title else None, title_justify="left", **options)

    def heading(self, text: str, **options: Any) -> None:
        """Add a column with this heading; what does not fit goes on in the next line: a number cut off is another."""
        self.add_column(plain(text), **{"overflow": "fold"} | options)

    def row(self, *cells: str | Text) -> None:
        """Add a row."""
        self.add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in cells))


def plain(text: str, style: str = "") -> Text:
    """Return the text to be printed as it is: no markup, no control characters, further lines indented."""
    return Text(printable(indented(text)), style=style)
