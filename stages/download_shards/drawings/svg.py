"""Render drawings of strangers: only shapes, paints and filters, bounded, and nothing outside the drawing.

The renderer reads files that an ``image`` names, and repeats what is referred to each time. So a drawing is parsed
first, and refused where it has an element that is not listed, a reference that leaves it, or more to draw, with all
references followed, than ``MOST_ELEMENTS``.
"""

import re
from xml.etree import ElementTree

from stages.contract.errors import FailureCause, ItemFault
from stages.contract.parsing import parsing, shown

MOST_BYTES = 1_000_000
MOST_ELEMENTS = 20_000
_MOST_DEPTH = 50
_ELEMENTS = frozenset(
    (
        *("svg", "g", "defs", "symbol", "use", "title", "desc"),
        *("path", "rect", "circle", "ellipse", "line", "polyline", "polygon"),
        *("linearGradient", "radialGradient", "stop", "clipPath", "mask"),
        *("filter", "feColorMatrix", "feBlend", "feFlood", "feOffset", "feGaussianBlur", "feComposite", "feMerge"),
        *("feMergeNode", "feMorphology"),
    )
)
_URL = re.compile(r"url\s*\(\s*['\"]?\s*([^)'\"]*)")


def render_svg(svg: str, size: int) -> bytes:
    """Return the drawing as a PNG of ``size`` x ``size`` pixels on white.

    Raises:
        ItemFault: it is refused, or cannot be rendered.
    """
    import resvg_py

    _check(svg)
    with parsing(FailureCause.CORRUPT_IMAGE):
        return bytes(
            resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True)
        )


def _check(svg: str) -> None:
    if len(svg) > MOST_BYTES:
        raise ItemFault(FailureCause.FILE_TOO_LARGE)
    if "<!" in svg or "<?" in svg:  # entities, style sheets
        raise _refused("a declaration or processing instruction")
    with parsing(FailureCause.CORRUPT_IMAGE):
        root = ElementTree.fromstring(svg)
    _check_size(root, _references(root))


def _references(root: ElementTree.Element) -> dict[ElementTree.Element, list[str]]:
    """Return the ids that each element refers to, all of them inside the drawing."""
    found = {}
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if name not in _ELEMENTS:
            raise _refused(f"an element {shown(name, 40)}")
        targets = []
        for key, value in element.attrib.items():
            addresses = [value] if key.rpartition("}")[2] == "href" else _URL.findall(value)
            if "\\" in value or "@import" in value or not all(one.strip().startswith("#") for one in addresses):
                raise _refused("a reference out of the drawing")
            targets += [one.strip()[1:] for one in addresses]
        found[element] = targets
    return found


def _check_size(root: ElementTree.Element, references: dict[ElementTree.Element, list[str]]) -> None:
    """Count what is rendered with all references followed; one in a circle is never followed to its end."""
    by_id = {name: element for element in root.iter() if (name := element.get("id"))}
    counts: dict[ElementTree.Element, int] = {}

    def count(element: ElementTree.Element, depth: int) -> int:
        if depth > _MOST_DEPTH:
            raise _refused(f"elements or references more than {_MOST_DEPTH} deep")
        if element not in counts:
            targets = [by_id[name] for name in references[element] if name in by_id]
            counts[element] = 1 + sum(count(one, depth + 1) for one in [*element, *targets])
        return counts[element]

    if count(root, 0) > MOST_ELEMENTS:
        raise _refused(f"more than {MOST_ELEMENTS:,} elements, references followed")


def _refused(what: str) -> ItemFault:
    return ItemFault(FailureCause.UNSUPPORTED_FORMAT, f"unsupported image format: the drawing has {what}")
