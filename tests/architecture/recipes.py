"""Follow the recipes of CONTRIBUTING.md on a copy of the house.

``python -m tests.architecture.recipes`` prints the diffs. A recipe is a folder of new files (toys/<recipe>/) and text
that is added to existing files.
"""

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_name("toys")
SUFFIXES = {".md", ".py", ".toml", ".yaml"}


@dataclass(frozen=True)
class Edit:
    """Text that is put after the last match of a pattern in a file."""

    file: str
    after: str
    text: str


EDITS = {
    "stage": [
        Edit(
            "pipeline/config/schema.py",
            r"from stages\.generate\.config import .*\n",
            "from stages.measure_colors.config import MeasureColorsConfig\n",
        ),
        Edit(
            "pipeline/config/schema.py",
            r"    download_shards: .*\n",
            "    measure_colors: MeasureColorsConfig | None = None\n",
        ),
        Edit("pyproject.toml", r'"""stages\.download_shards', " | stages.measure_colors"),
    ],
    "decoder": [
        Edit(
            "models/decoders/registry.py",
            r"from collections\.abc .*\nfrom typing .*\n\n",
            "from models.decoders.flat_color.spec import FlatColorSpec\n",
        ),
        Edit("models/decoders/registry.py", r"    \"pixel_diffusion\": .*\n", '    "flat_color": FlatColorSpec,\n'),
        Edit(
            "docs/decoders.md",
            r"\| `pixel_diffusion` .*\n",
            "| `flat_color` | one color, by one layer | nothing | toys |\n",
        ),
    ],
}


def copy_house(target: Path) -> None:
    """Copy what git keeps, without its large files, which are linked."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, target / name
        if not source.exists():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.stat().st_size > 100_000:
            if "assets" in source.parts:  # models, in whose folders no links that lead out are allowed
                shutil.copyfile(source, copy)
            else:
                copy.symlink_to(source)
        else:
            shutil.copyfile(source, copy)


def follow(recipe: str, house: Path) -> None:
    """Add the recipe's files and lines to a copy of the house."""
    shutil.copytree(FOLDER / recipe, house, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in EDITS[recipe]:
        path = house / edit.file
        text = path.read_text()
        (*_, last) = re.finditer(edit.after, text)
        path.write_text(text[: last.end()] + edit.text + text[last.end() :])


def python(house: Path, *words: str) -> str:
    """Run a module on a copy of the house, and return what it prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=house,
        env=environment | {"PYTHONPATH": str(house)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def changes(house: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each file that differs from the original, with its diff."""
    for path in sorted(path for path in house.rglob("*") if path.is_file() and path.suffix in SUFFIXES):
        name = str(path.relative_to(house))
        before = (ROOT / name).read_text().splitlines() if (ROOT / name).exists() else []
        lines = list(difflib.unified_diff(before, path.read_text().splitlines(), name, name, n=1, lineterm=""))
        if lines:
            yield name, lines


def main() -> None:
    """Print each recipe's diff and how many files it touches."""
    for recipe, edits in EDITS.items():
        with tempfile.TemporaryDirectory() as folder:
            copy_house(Path(folder))
            follow(recipe, Path(folder))
            found = list(changes(Path(folder)))
        for _, lines in found:
            print("\n".join(lines))
        new = sum((FOLDER / recipe / name).exists() for name, _ in found)
        print(f"{recipe}: {new} new files, {len(found) - new} files changed, {len(edits)} additions to those\n")


if __name__ == "__main__":
    main()
