"""Show findings as tables in a terminal; as a page: :mod:`pipeline.html_report`."""

import re
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console

from pipeline.console import PlainTable, plain
from stages.contract.findings import Findings, Table

_ROUNDED = re.compile(r"-?\d+\.\d+(e[+-]\d+)?|\d+(\.\d+)?%")


def print_findings(console: Console, found: Sequence[Findings]) -> None:
    """Print everything but the images."""
    for one in found:
        console.rule(plain(f"{one.stage} {one.fingerprint} ({one.state})"), align="left")
        console.print(plain(one.uri, "dim"), soft_wrap=True)
        for block in one.blocks:
            if isinstance(block, Table):
                console.print(_rich_table(block))
        for note in one.notes:
            console.print(plain(note, "dim"))


def _rich_table(block: Table) -> PlainTable:
    table = PlainTable(title=block.title, box=box.SIMPLE_HEAD)
    for index, heading in enumerate(block.headings):
        numbers = all(_is_number(row[index]) for row in block.rows)
        table.heading(heading, justify="right" if numbers else "left")
    for row in block.rows:
        table.row(*(_cell(value) for value in row))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    """Tell whether a cell stands to the right: a number, also one that was rounded to text."""
    if isinstance(value, int | float):
        return True
    return bool(_ROUNDED.fullmatch(value))
