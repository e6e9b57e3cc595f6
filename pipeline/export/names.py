"""What files of an exported folder are called; no torch."""

from pathlib import Path
from typing import Final

BUNDLE: Final = "bundle.json"


def is_bundle(folder: Path) -> bool:
    """Return whether a folder holds a run's models."""
    return (folder / BUNDLE).is_file()
