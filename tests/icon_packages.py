"""Tiny icon packages in the real format, laid out as `npm install` leaves them: a stand-in for the registry's."""

import json
from collections.abc import Mapping
from pathlib import Path

from stages.download_shards.drawings.package_config import DRAWINGS, KEYWORDS, SETS

COLORS = ("#d00", "#0a0", "#00d", "#dd0", "#0dd", "#d0d", "#888", "#000")
BODY = '<path fill="{color}" d="M{corner} {corner}h20v20z"/>'


def concept(index: int) -> str:
    """Return the code point of a concept."""
    return f"{0x1F600 + index:x}"


def body(artist: int, index: int) -> str:
    """Return an artist's drawing of a concept: the concept's colour in the artist's place."""
    return BODY.format(color=COLORS[index % len(COLORS)], corner=2 * artist)


def write_packages(folder: Path, num_concepts: int = 8, bodies: Mapping[str, str] | None = None) -> Path:
    """Write all packages: concepts that everyone drew, a skin tone, a hidden repetition; ``bodies`` replaces some."""
    for artist, name in enumerate(SETS):
        icons: dict[str, dict[str, object]] = {
            f"thing-{index}": {"body": body(artist, index)} for index in range(num_concepts)
        }
        characters = {concept(index): f"thing-{index}" for index in range(num_concepts)}
        icons |= {name: {"body": text} for name, text in (bodies or {}).items()}
        icons |= {
            "wave-dark-skin-tone": {"body": body(artist, 0)},
            "old-thing": {"body": body(artist, 1), "hidden": True},
        }
        characters |= {"1f44b-1f3ff": "wave-dark-skin-tone"}
        own: dict[str, dict[str, object]] = {"own-thing": {"body": body(artist, 2)}} if name == "openmoji" else {}
        icons, characters = icons | own, characters | dict.fromkeys(["e000", "e001"][: 2 * len(own)], "own-thing")
        files = {"icons.json": {"icons": icons, "width": 36, "height": 36}, "chars.json": characters}
        _write(folder / DRAWINGS[name].name, files | {"package.json": {"license": DRAWINGS[name].spdx}})
    texts = {chr(int(concept(0), 16)): {"tts": ["first thing"], "default": ["corner", "red"]}}
    files = {"annotations/en/annotations.json": {"annotations": {"annotations": texts}}}
    _write(folder / KEYWORDS.name, files | {"package.json": {"license": KEYWORDS.spdx}})
    return folder


def _write(folder: Path, files: Mapping[str, object]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
