"""Read or make the prompts; torch-free unless the prompts are scenes."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contract.errors import InputFault, nearest
from stages.contract.parsing import parsing, shown
from stages.generate.config import FilePrompts, ListPrompts, NoPrompts, ScenePrompts

if TYPE_CHECKING:
    from models.scenes.scene import Scene

LARGEST_FILE = 64 << 20  # bytes
MOST_PROMPTS = 1_000_000
LONGEST_PROMPT = 10_000  # characters; encoders read some hundred
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Prompt:
    """A text to generate an image of; ``scene`` holds the fields of the scene that it describes, if any."""

    text: str
    scene: Mapping[str, Any] | None = None


def make_prompts(config: ScenePrompts | ListPrompts | FilePrompts | NoPrompts) -> list[Prompt]:
    """Return all prompts; of kind unconditional they are empty."""
    if isinstance(config, NoPrompts):
        return [Prompt("")] * config.num
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
        raise InputFault(f"{where}: found {shown(config.path.name)}: allowed are .txt, .csv and .tsv: convert the file")
    text = _text_of(config.path, where)
    lines = text.split("\n") if suffix == ".txt" else _column(text, config, _DELIMITERS[suffix])
    texts = [line.strip() for line in lines if line.strip()][: config.limit]
    if not texts:
        raise InputFault(f"{where}: {shown(config.path)} holds no prompts: give at least one")
    if len(texts) > MOST_PROMPTS or max(map(len, texts)) > LONGEST_PROMPT:
        raise InputFault(
            f"{where}: found {len(texts):,} prompts, the longest of {max(map(len, texts)):,} characters: allowed are "
            f"{MOST_PROMPTS:,} of {LONGEST_PROMPT:,}: split the file"
        )
    return texts


def _text_of(path: Path, where: str) -> str:
    """Return the file's text, each line of which ends as on this machine."""

    def fault(reason: str) -> InputFault:
        return InputFault(f"{where}: cannot read {shown(path)} ({reason}): give a UTF-8 file of prompts")

    with parsing(fault):
        if not path.is_file() and path.exists():
            raise fault("it is no file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise fault(f"it is larger than {LARGEST_FILE:,} bytes")
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def _column(text: str, config: FilePrompts, delimiter: str) -> list[str]:
    where = "generate.prompts.path"
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    def fault(reason: str) -> InputFault:
        return InputFault(f"{where}: {shown(config.path)}: line {rows.line_num}: {reason}: mend it there")

    with parsing(fault):
        columns = next(rows, [])
        if columns.count(config.column) != 1:
            raise _no_column(config, columns)
        index = columns.index(config.column)
        found = []
        for row in rows:
            found.append(row[index] if index < len(row) else "")
            if delimiter == "\t" and "\n" in found[-1]:
                raise fault("a prompt of several lines, as where a quote is not closed")
    return found


def _no_column(config: FilePrompts, columns: list[str]) -> InputFault:
    names = shown(", ".join(columns) or "none")
    several = columns.count(config.column)
    found = f"has {several} columns" if several else "has no column"
    near = "" if several else nearest(config.column, columns)
    return InputFault(
        f"generate.prompts.column: {shown(config.path)} {found} {config.column!r}{near}: its columns are {names}"
    )
