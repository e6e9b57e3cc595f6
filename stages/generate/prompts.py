"""Read or make the prompts; torch-free unless the prompts are scenes."""

import csv
import heapq
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.contract.errors import InputFault, nearest
from stages.contract.parsing import parsing, shown
from stages.formats.filtered import removed_keys
from stages.formats.shards import ShardRecord, read_table_captions
from stages.formats.splits import SplitConfig, split_numbers
from stages.generate.config import CaptionPrompts, FilePrompts, ListPrompts, NoPrompts, Prompts, ScenePrompts
from stages.storage.artifact import Artifact

if TYPE_CHECKING:
    from models.scenes.scene import Scene

LARGEST_FILE = 64 << 20  # bytes
MOST_PROMPTS = 1_000_000
LONGEST_PROMPT = 10_000  # characters; encoders read some hundred
LONGEST_CATEGORY = 100  # characters
PROMPT_COLUMNS = ("Prompt", "Prompts")  # of PartiPrompts, of DrawBench
CATEGORY_COLUMNS = ("Category", "Challenge")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Prompt:
    """A text to generate an image of; ``scene`` holds the fields of the scene that it describes, if any."""

    text: str
    scene: Mapping[str, Any] | None = None
    sample: tuple[str, str] | None = None
    """Shard and key of the image whose caption it is, if it is one's."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """What its file says of it, by columns."""


def make_prompts(config: Prompts) -> list[Prompt]:
    """Return all prompts that need no data of the experiment; of kind unconditional they are empty."""
    if isinstance(config, NoPrompts):
        return [Prompt("")] * config.num
    if isinstance(config, ScenePrompts):
        return _scene_prompts(config)
    if isinstance(config, CaptionPrompts):
        raise TypeError("captions are read by caption_prompts")
    if isinstance(config, ListPrompts):
        return [Prompt(text) for text in config.texts]
    return [Prompt(text, categories=categories) for text, categories in _read_file(config)]


def caption_prompts(
    config: CaptionPrompts, split: SplitConfig, shards: Artifact, kept: Artifact | None = None
) -> list[Prompt]:
    """Return the first captions of images of a part of the split, those with the lowest numbers by hash first.

    ``kept`` is what filter_samples found: what it removed is in no prompt.
    """
    records, part = ShardRecord.done(shards), config.part_of(split)
    captions = ((name, _kept_captions(shards, name, kept)) for name in sorted(records))
    chosen = heapq.nsmallest(config.num, _captions_of(part, split, captions))  # no more are held
    if not chosen:
        captioned = sum(record.captioned for record in records.values())
        left, further = ("", "") if kept is None else (" and left by filter_samples", ", or filter less")
        raise InputFault(
            f"generate.prompts: none of the {captioned} captioned images is in the part {part} of the split{left}: "
            f"expected some: raise split.{part}, or give more captions{further}"
        )
    return [Prompt(text, sample=(name, key)) for _, name, key, text in chosen]


def _kept_captions(shards: Artifact, name: str, kept: Artifact | None) -> dict[str, str]:
    """Return a shard's captions by key, reading no tar, but those of images that were removed."""
    captions = read_table_captions(shards, name)
    removed = set() if kept is None else removed_keys(kept, name)
    return {key: text for key, text in captions.items() if key not in removed}


def _captions_of(
    part: str, split: SplitConfig, shards: Iterable[tuple[str, Mapping[str, str]]]
) -> Iterator[tuple[float, str, str, str]]:
    """Yield the number by hash, shard, key and caption of each captioned image of a part."""
    low, high = (0.0, split.test) if part == "test" else (split.test, split.test + split.validation)
    for name, captions in shards:
        for number, (key, text) in zip(split_numbers(list(captions), split), captions.items(), strict=True):
            if low <= number < high:
                yield float(number), name, key, text


def _scene_prompts(config: ScenePrompts) -> list[Prompt]:
    import numpy as np

    from models.scenes.captions import caption_scene
    from models.scenes.scene import make_scenes

    scenes: list[Scene] = make_scenes(config.num, config.seed, config.domain, config.split)
    rng = np.random.default_rng(config.seed)
    return [Prompt(caption_scene(scene, rng), asdict(scene)) for scene in scenes]


def read_prompts(config: FilePrompts) -> list[str]:
    """Read the prompts of a txt, csv or tsv file; blank ones are left out."""
    return [text for text, _ in _read_file(config)]


def _read_file(config: FilePrompts) -> list[tuple[str, dict[str, str]]]:
    """Return each prompt, and what the file says of it by columns."""
    where, suffix = "generate.prompts.path", config.path.suffix.lower()
    if suffix not in {".txt", *_DELIMITERS}:
        raise InputFault(f"{where}: found {shown(config.path.name)}: allowed are .txt, .csv and .tsv: convert the file")
    text = _text_of(config.path, where)
    lines = [(line, {}) for line in text.split("\n")] if suffix == ".txt" else _rows(text, config, _DELIMITERS[suffix])
    prompts = [(line.strip(), categories) for line, categories in lines if line.strip()][: config.limit]
    texts = [line for line, _ in prompts]
    if not texts:
        raise InputFault(f"{where}: {shown(config.path)} holds no prompts: give at least one")
    if len(texts) > MOST_PROMPTS or max(map(len, texts)) > LONGEST_PROMPT:
        raise InputFault(
            f"{where}: found {len(texts):,} prompts, the longest of {max(map(len, texts)):,} characters: allowed are "
            f"{MOST_PROMPTS:,} of {LONGEST_PROMPT:,}: split the file"
        )
    return prompts


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


def _rows(text: str, config: FilePrompts, delimiter: str) -> list[tuple[str, dict[str, str]]]:
    """Return the column of the prompts, and the values of the categories' columns that are not blank."""
    where = "generate.prompts.path"
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    def fault(reason: str) -> InputFault:
        return InputFault(f"{where}: {shown(config.path)}: line {rows.line_num}: {reason}: mend it there")

    with parsing(fault):
        columns = next(rows, [])
        index = _index_of(config, columns)
        of_categories = {name: columns.index(name) for name in _categories(config, columns)}
        found = []
        for row in rows:
            text = row[index] if index < len(row) else ""
            if delimiter == "\t" and "\n" in text:
                raise fault("a prompt of several lines, as where a quote is not closed")
            values = {name: row[at].strip()[:LONGEST_CATEGORY] for name, at in of_categories.items() if at < len(row)}
            found.append((text, {name: value for name, value in values.items() if value}))
    return found


def _index_of(config: FilePrompts, columns: list[str]) -> int:
    """Return where the prompts stand."""
    wanted = [config.column] if config.column is not None else [name for name in PROMPT_COLUMNS if name in columns][:1]
    if not wanted or columns.count(wanted[0]) != 1:
        raise _no_column("column", wanted[0] if wanted else PROMPT_COLUMNS[0], config, columns)
    return columns.index(wanted[0])


def _categories(config: FilePrompts, columns: list[str]) -> tuple[str, ...]:
    if config.categories is None:
        return tuple(name for name in CATEGORY_COLUMNS if columns.count(name) == 1)
    for name in config.categories:
        if columns.count(name) != 1:
            raise _no_column("categories", name, config, columns)
    return config.categories


def _no_column(key: str, column: str, config: FilePrompts, columns: list[str]) -> InputFault:
    names = shown(", ".join(columns) or "none")
    several = columns.count(column)
    found = f"has {several} columns" if several else "has no column"
    near = "" if several else nearest(column, columns)
    return InputFault(f"generate.prompts.{key}: {shown(config.path)} {found} {column!r}{near}: its columns are {names}")
