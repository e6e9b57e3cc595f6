"""Import img2dataset's resizer without the package around it, and make its transforms once.

``import img2dataset`` imports its command line and with it torch and ray: 5.4 s of a CPU and 0.8 GB in every worker,
against 1.3 s and 0.1 GB for the resizer alone. The resizer makes its albumentations transforms anew for every image,
which takes about a sixth of the image's time, for the checks of their settings. test_resizing.py holds both to be
needed, and the bytes to be those of plain img2dataset.
"""

import os
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any


def import_resizer() -> Any:
    """Return the module img2dataset.resizer, imported while an empty module stands in for the package."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the package registry
    spec = find_spec("img2dataset")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("download_shards needs img2dataset: pip install img2dataset")
    stand_in = types.ModuleType("img2dataset")
    stand_in.__path__ = list(spec.submodule_search_locations)
    imported = sys.modules.setdefault("img2dataset", stand_in)
    try:
        from img2dataset import resizer
    finally:
        if imported is stand_in:
            del sys.modules["img2dataset"]  # a later `import img2dataset` gets the whole package
    if not isinstance(resizer.A, _Transforms):
        resizer.A = _Transforms(resizer.A)
    return resizer


class _Transforms:
    """Stands in for albumentations in the resizer; one transform is made for the same settings, as none is random."""

    def __init__(self, library: types.ModuleType) -> None:
        self._library = library
        self._made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return the function that makes a kind of transform, or returns the one made before."""

        def make(**settings: Any) -> Any:
            key = f"{name}({settings})"
            if key not in self._made:
                self._made[key] = getattr(self._library, name)(**settings)
            return self._made[key]

        return make
