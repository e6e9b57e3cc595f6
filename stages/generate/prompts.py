"""Read or make the prompts; torch-free unless the prompts are scenes."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contract.errors import InputFault, nearest
from stages.contract.parsing import parsing, shown
from stages.formats.shards import ShardRecord, read_captions, shard_tar
from stages.formats.splits import SplitConfig, split_numbers
from stages.generate.config import CaptionPrompts, FilePrompts, ListPrompts, NoPrompts, Prompts, ScenePrompts
from stages.storage.artifact import Artifact

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
    sample: tuple[str, str] | None = None
    """Shard and key of the image whose caption it is, if it is one's."""


def make_prompts(config: Prompts) -> list[Prompt]:
    """Return all prompts that need no data of the experiment; of kind unconditional they are empty."""
    if isinstance(config, NoPrompts):
        return [Prompt("")] * config.num
    if isinstance(config, ScenePrompts):
        return _scene_prompts(config)
    if isinstance(config, CaptionPrompts):
        raise TypeError("captions are read by caption_prompts")
    texts = config.texts if isinstance(config, ListPrompts) else read_prompts(config)
    return [Prompt(text) for text in texts]


def caption_prompts(config: CaptionPrompts, split: SplitConfig, shards: Artifact) -> list[Prompt]:
    """Return the first captions of images of a part of the split, those with the lowest numbers by hash first."""
    names = sorted(ShardRecord.done(shards))
    captions = [read_captions(shard_tar(shards, name)) for name in names]
    found = []
    for name, texts in zip(names, captions, strict=True):
        numbers = split_numbers(list(texts), split)
        found += [(float(n), name, key, text) for n, (key, text) in zip(numbers, texts.items(), strict=True)]
    low, high = (0.0, split.test) if config.part == "test" else (split.test, split.test + split.validation)
    chosen = sorted(one for one in found if low <= one[0] < high)[: config.num]
    if not chosen:
        raise InputFault(
            f"generate.prompts: none of the {len(found)} captioned images is in the part {config.part} of the split: "
            f"expected some: raise split.{config.part}, or give more captions"
        )
    return [Prompt(text, sample=(name, key)) for _, name, key, text in chosen]


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
