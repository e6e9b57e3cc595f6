"""Tables and values in the Markdown files that the pipeline writes; all of them are written by these functions."""

import re
from collections.abc import Sequence
from typing import Final

from stages.contract.texts import one_line

_LONGEST: Final = 300  # characters of a value
_ACTIVE: Final = re.compile(r"[\\`*\[\]<>|#~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What Markdown reads as its own; an underscore within a word is not."""


def escape(text: object) -> str:
    """Return a value as plain Markdown text on one line, which stays in its cell of a table."""
    return _ACTIVE.sub(r"\\\g<0>", one_line(text, _LONGEST))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, numeric_from: int | None = None) -> list[str]:
    """Return the lines of a table; its cells are Markdown: what may hold anything is escaped before.

    Columns from ``numeric_from`` on are aligned to the right.
    """
    first = len(headings) if numeric_from is None else numeric_from
    rule = ["---" if number < first else "---:" for number in range(len(headings))]
    return [f"| {' | '.join(line)} |" for line in (headings, rule, *rows)]
