"""Show findings: as tables in a terminal, and as an HTML page without scripts beside its images."""

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console

from pipeline.console import PlainTable, plain
from stages.contract.findings import Findings, Image, Table
from stages.storage.artifact import Output

PAGE = "index.html"
_ROUNDED = re.compile(r"-?\d+\.\d+(e[+-]\d+)?|\d+(\.\d+)?%")
_POLICY = "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #1c1c1c; }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; border-top: 2px solid #ddd; padding-top: 1.2rem; margin-top: 2.2rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem } .dim { color: #666; overflow-wrap: anywhere }
table { border-collapse: collapse } th, td { border-bottom: 1px solid #e4e4e4; padding: .15rem .9rem .15rem 0;
text-align: left; vertical-align: top; overflow-wrap: anywhere; max-width: 40rem; white-space: pre-wrap }
th { color: #555; font-weight: 600 } td.number { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100%; border: 1px solid #e4e4e4 } nav a { margin-right: 1rem }
"""


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
        table.heading(heading, justify="right" if numbers else "left", overflow="fold")
    for row in block.rows:
        table.row(*(_cell(value) for value in row))
    return table


def write_page(found: Sequence[Findings], title: str, folder: Path) -> dict[str, str]:
    """Write the page and its images; return the images' paths by name."""
    output = Output(str(folder), "inspection", "")
    paths = {}
    for one in found:
        for block in one.blocks:
            if isinstance(block, Image):
                output.write_bytes(f"{block.name}.png", block.png)
                paths[block.name] = str(folder / f"{block.name}.png")
    output.write_bytes(PAGE, page(found, title).encode())
    return paths


def page(found: Sequence[Findings], title: str) -> str:
    """Return the page; whatever comes from data is escaped, and a policy forbids scripts and other addresses."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_escape(_POLICY)}">',
        f"<title>{_escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_escape(title)}</h1>",
        "<nav>",
        *(f'<a href="#{_escape(one.stage)}">{_escape(one.stage)}</a>' for one in found),
        "</nav>",
        *(line for one in found for line in _section(one)),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(one: Findings) -> Iterator[str]:
    name = _escape(one.stage)
    yield f'<section><h2 id="{name}">{name} <span class="dim">{_escape(one.state)}</span></h2>'
    yield f'<p class="dim">{_escape(one.uri)}</p>'
    for block in one.blocks:
        yield f"<h3>{_escape(block.title)}</h3>"
        if isinstance(block, Image):
            yield f'<img src="{_escape(block.name)}.png" alt="{_escape(block.title)}">'
        else:
            yield from _html_table(block)
    yield from (f'<p class="dim">{_escape(note)}</p>' for note in one.notes)
    yield "</section>"


def _html_table(block: Table) -> Iterator[str]:
    yield "<table><thead><tr>"
    yield "".join(f"<th>{_escape(heading)}</th>" for heading in block.headings)
    yield "</tr></thead><tbody>"
    for row in block.rows:
        yield "<tr>" + "".join(_html_cell(value) for value in row) + "</tr>"
    yield "</tbody></table>"


def _html_cell(value: Any) -> str:
    kind = ' class="number"' if _is_number(value) else ""
    return f"<td{kind}>{_escape(_cell(value))}</td>"


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    """Tell whether a cell stands to the right: a number, also one that was rounded to text."""
    if isinstance(value, int | float):
        return True
    return bool(_ROUNDED.fullmatch(value))


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
