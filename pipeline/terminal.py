"""What is printed: what comes from outside is neither markup nor a control character.

Captions, names, prompts, records, and the words of libraries and servers may hold anything. All that is printed passes
:func:`stages.contract.texts.printable`, here or in :mod:`pipeline.console`, and nothing is printed elsewhere.
"""

import logging
import sys

import typer

from stages.contract.texts import printable


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text as it is, but for control characters."""
    typer.echo(printable(text), err=err, nl=nl)


def indented(text: str) -> str:
    """Return a text of several lines so that none but the first can pass for a message of its own."""
    return text.replace("\n", "\n  ")


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return indented(printable(super().format(record)))


def protect_standard_streams() -> None:
    """Make log records printable, and let no character that the terminal's encoding lacks end the program."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
