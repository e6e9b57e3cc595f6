"""What files of an exported folder are called; no torch."""

from pathlib import Path
from typing import Final

BUNDLE: Final = "bundle.json"


def is_bundle(name: str) -> bool:
    """Return whether a name is that of a folder that holds a run's models; an empty one is not the current folder."""
    return bool(name.strip()) and (Path(name) / BUNDLE).is_file()
