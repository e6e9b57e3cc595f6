"""Read or make the prompts; torch-free unless the prompts are scenes."""

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stages.contract.errors import InputFault, nearest
from stages.generate.config import FilePrompts, ListPrompts, ScenePrompts

if TYPE_CHECKING:
    from models.scenes.scene import Scene

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Prompt:
    """A text to generate an image of; ``scene`` holds the fields of the scene that it describes, if any."""

    text: str
    scene: Mapping[str, Any] | None = None


def make_prompts(config: ScenePrompts | ListPrompts | FilePrompts) -> list[Prompt]:
    """Return all prompts."""
    if isinstance(config, ScenePrompts):
        return _scene_prompts(config)
    texts = config.texts if isinstance(config, ListPrompts) else read_prompts(config)
    return [Prompt(text) for text in texts]


def _scene_prompts(config: ScenePrompts) -> list[Prompt]:
    import numpy as np

    from models.scenes.captions import caption_scene
    from models.scenes.scene import make_scenes

    scenes: list[Scene] = make_scenes(config.num, config.seed, config.domain, config.split)
    rng = np.random.default_rng(config.seed)
    return [Prompt(caption_scene(scene, rng), asdict(scene)) for scene in scenes]


def read_prompts(config: FilePrompts) -> list[str]:
    """Read the prompts of a txt, csv or tsv file; blank ones are left out."""
    where, suffix = "generate.prompts.path", config.path.suffix.lower()
    if suffix not in {".txt", *_DELIMITERS}:
        raise InputFault(f"{where}: found {config.path.name}: allowed are .txt, .csv and .tsv: convert the file")
    try:
        with config.path.open(encoding="utf-8-sig", newline="" if suffix in _DELIMITERS else None) as file:
            lines = file.read().splitlines() if suffix == ".txt" else _column(file, config, _DELIMITERS[suffix])
    except (OSError, UnicodeDecodeError) as error:
        raise InputFault(f"{where}: cannot read {config.path} ({error}): give a UTF-8 file of prompts") from error
    texts = [line.strip() for line in lines if line.strip()][: config.limit]
    if not texts:
        raise InputFault(f"{where}: {config.path} holds no prompts: give at least one")
    return texts


def _column(file: Any, config: FilePrompts, delimiter: str) -> list[str]:
    rows = csv.DictReader(file, delimiter=delimiter)
    columns = list(rows.fieldnames or ())
    if config.column not in columns:
        raise InputFault(
            f"generate.prompts.column: {config.path} has no column {config.column!r}{nearest(config.column, columns)}: "
            f"its columns are {', '.join(columns) or 'none'}"
        )
    return [row[config.column] or "" for row in rows]
