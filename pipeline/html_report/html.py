"""Parts of a page, escaped: texts, tables, images inside the file."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from stages.contract.findings import Findings, Image, Table
from stages.contract.texts import printable

_ROUNDED: Final = re.compile(r"-?\d+\.\d+(e[+-]\d+)?|\d+(\.\d+)?%")

POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Forbids scripts and every request."""
STYLE: Final = """
:root { color-scheme: light dark; --ground: light-dark(#faf8f5, #17191c); --raised: light-dark(#fff, #22252a);
  --ink: light-dark(#22252a, #eceae6); --faint: light-dark(#5c5f66, #a9acb3); --line: light-dark(#d9d6d0, #3b3f46);
  --accent: light-dark(#a34a12, #f0a35e); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2rem 0 0.6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 0.3rem; }
p, li { overflow-wrap: anywhere; } .dim { color: var(--faint); }
.state { display: inline-block; padding: 0 0.6rem; border: 1px solid var(--line); border-radius: 1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr)); gap: 0.75rem;
  margin: 0; padding: 0; }
.figures div { padding: 0.75rem; background: var(--raised); border: 1px solid var(--line); border-radius: 0.5rem; }
.figures dt { color: var(--faint); } .figures dd { margin: 0; overflow-wrap: anywhere; }
.figures dd.value { font-size: 1.5rem; font-variant-numeric: tabular-nums; } .figures dd.about { font-size: 0.875rem; }
.care { padding: 0.75rem; border: 1px solid var(--line); border-left: 4px solid var(--accent); border-radius: 0.5rem; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 0.3rem; }
details { margin-top: 0.6rem; background: var(--raised); border: 1px solid var(--line); border-radius: 0.5rem; }
summary { padding: 0.6rem 0.75rem; cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
details > div { padding: 0 0.75rem 0.75rem; } :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.94rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.2rem 0.9rem 0.2rem 0; text-align: left; vertical-align: top;
  white-space: pre-wrap; max-width: 40rem; overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; font-size: 0.875rem; }
@media print { details { break-inside: avoid; } }
"""


def escape(value: object) -> str:
    """Return a value from outside as text of a page: no markup, and no control character."""
    return html.escape(printable(str(value)), quote=True)


def document(title: str, parts: Iterable[str]) -> str:
    """Return a whole page."""
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style></head><body><main>',
            *parts,
            "</main></body></html>\n",
        )
    )


def folded(title: str, parts: Iterable[str], *, is_open: bool = False) -> str:
    """Return parts that are shown when their title is chosen."""
    opening = "<details open>" if is_open else "<details>"
    return "\n".join((f"{opening}<summary>{escape(title)}</summary><div>", *parts, "</div></details>"))


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; numbers stand to the right."""
    lines = ["".join(map(_cell, row)) for row in rows]
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    label = escape(", ".join(headings))
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>'
        f"{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def image(png: bytes, title: str) -> str:
    """Return an image that lies in the page itself."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{escape(title)}">'


def findings_part(found: Findings, *, is_open: bool = False) -> str:
    """Return what was found in an artifact, folded."""
    parts = [f'<p class="dim">{escape(found.uri)}</p>']
    for block in found.blocks:
        parts.append(f"<h3>{escape(block.title)}</h3>")
        parts.append(image(block.png, block.title) if isinstance(block, Image) else _of_table(block))
    parts += [f'<p class="dim">{escape(note)}</p>' for note in found.notes]
    return folded(f"{found.stage}: {found.state}", parts, is_open=is_open)


def _of_table(block: Table) -> str:
    return table(block.headings, block.rows)


def _cell(value: Any) -> str:
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    is_number = isinstance(value, int | float) or bool(_ROUNDED.fullmatch(shown))
    kind = ' class="number"' if is_number else ""
    return f"<td{kind}>{escape(shown)}</td>"
