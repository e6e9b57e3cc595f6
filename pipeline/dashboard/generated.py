"""The images that runs generated: single ones, and those of the same prompts and seeds side by side, page by page."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from PIL import Image

from pipeline.dashboard.reader import NotThere, Reader, version_of
from pipeline.errors import PipelineError
from stages.contract.errors import StageError
from stages.contract.parsing import shown
from stages.contract.texts import one_line
from stages.formats.generated_images import (
    GeneratedRow,
    GeneratedUnit,
    iterate_rows,
    list_units,
    read_images,
    read_unit_rows,
)
from stages.formats.image_grids import to_png
from stages.storage.artifact import Artifact

PAGE: Final = 8
"""Prompts that are shown at once."""
_FIRST: Final = "prior"
"""The set that is shown first."""
_MOST_RUNS: Final = 12  # whose prompts are kept in memory
_MOST_UNITS: Final = 32  # whose rows are
Key = tuple[str, int]
"""Prompt and seed."""
Indices = Mapping[str, Mapping[Key, int]]
"""Of each set, which image is of a prompt and a seed."""


class GeneratedImages:
    """What runs of a store generated; of what was asked for last, prompts and rows stay in memory."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._indices = lru_cache(maxsize=_MOST_RUNS)(_read_indices)
        self._units = lru_cache(maxsize=_MOST_RUNS)(_read_units)
        self._rows = lru_cache(maxsize=_MOST_UNITS)(_read_rows)

    def image(self, run: str, name: str, index: int) -> bytes:
        """Return an image of a set, as PNG; NotThere: there is none. The rows of its unit alone are read."""
        artifact = self._artifact(run)
        version = version_of(artifact)
        units = self._units(artifact, version)
        unit = next((one for one in units if one.set == name and one.first <= index < one.first + one.count), None)
        rows = [] if unit is None else self._rows(artifact, unit.name, version)
        row = next((one for one in rows if one.index == index), None)
        if row is None:
            raise NotThere(f"run {shown(run)}: has no image {index} of the set {shown(name)}")
        return to_png(Image.fromarray(read_images(artifact, [row])[0]))

    def side_by_side(self, runs: Sequence[str], name: str, text: str, first: int) -> dict[str, Any]:
        """Return a page of the prompts and seeds that all runs with images of a set have, and which images these are.

        ``name`` "" stands for the set that is shown first; ``text`` is a part of the prompts. What is wrong with a run
        is a sentence in ``faults``.
        """
        found = [self._found(run) for run in runs]
        sets = list(dict.fromkeys(one for indices, _ in found for one in indices))
        chosen = name if name in sets else _FIRST if _FIRST in sets else next(iter(sets), "")
        of_set = [indices.get(chosen, {}) for indices, _ in found]
        having = [one for one in of_set if one] or [{}]
        keys = [key for key in having[0] if text in key[0] and all(key in one for one in having)]
        return {
            "sets": sets,
            "set": chosen,
            "page": PAGE,
            "total": len(keys),
            "rows": [
                {"prompt": key[0], "seed": key[1], "indices": [one.get(key) for one in of_set]}
                for key in keys[first : first + PAGE]
            ],
            "faults": [fault for _, fault in found],
        }

    def _found(self, run: str) -> tuple[Indices, str]:
        try:
            artifact = self._artifact(run)
            return self._indices(artifact, version_of(artifact)), ""
        except (PipelineError, StageError) as error:
            return {}, one_line(error, 1000)

    def _artifact(self, run: str) -> Artifact:
        return self._reader.artifact(self._reader.record(run), "generate")


def _read_indices(artifact: Artifact, _version: str) -> Indices:
    found: dict[str, dict[Key, int]] = {}
    for row in iterate_rows(artifact):
        found.setdefault(row.set, {})[row.prompt, row.seed] = row.index
    return found


def _read_units(artifact: Artifact, _version: str) -> list[GeneratedUnit]:
    return list_units(artifact)


def _read_rows(artifact: Artifact, unit: str, _version: str) -> list[GeneratedRow]:
    return read_unit_rows(artifact, unit)


def rows_of(reader: Reader, run: str, name: str) -> list[GeneratedRow]:
    """Return what is known of each image of a set of a run."""
    artifact = reader.artifact(reader.record(run), "generate")
    return [row for row in iterate_rows(artifact) if row.set == name]
