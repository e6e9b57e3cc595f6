"""Text from outside as people may read it: without control characters, and in messages on one line and short."""

import re
import reprlib
from typing import Any, Final

from stages.contract.secrets import redact

_FORMAT: Final = (
    0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF,  # invisible, or marks of direction
    *range(0x2028, 0x202F), *range(0x2060, 0x2070),  # line separators, embeddings, overrides, isolates, operators
    *range(0xFFF9, 0xFFFC), 0xE0001, *range(0xE0020, 0xE0080),  # annotations, tags
)  # fmt: skip
_SHOWN: Final[dict[int, str]] = (
    {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
    | {0x7F: "\N{SYMBOL FOR DELETE}"}
    | {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x80, 0xA0), *range(0xD800, 0xE000), *_FORMAT)}
)
_BREAKS: Final = str.maketrans({"\n": "\N{SYMBOL FOR NEWLINE}", "\t": " "})
LONGEST_VALUE: Final = 80
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 4096  # so that what is secret is recognised before it is cut
_repr.maxlevel = 2


def printable(text: str) -> str:
    """Return the text with a visible sign for every character that would change a terminal, or the order of others.

    One character stands for one, so that widths stay; line ends and tabs are kept.
    """
    return text.translate(_SHOWN)


def one_line(text: object, longest: int = 400) -> str:
    """Return the text printable, on one line, and cut where it is longer."""
    line = printable(str(text)[: longest + 1]).translate(_BREAKS)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def by_number(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names by the numbers in them as numbers: steps_2 before steps_16."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d{1,18})", name)]


def show_value(value: Any, longest: int = LONGEST_VALUE) -> str:
    """Return a value for a message: as Python writes it, without credentials, and never the whole of a long one."""
    return one_line(redact(_repr.repr(value)), longest)
