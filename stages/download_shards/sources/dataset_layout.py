"""Which files of a Hugging Face folder are one dataset: those of one config and one split, never of several.

Read, in this order: ``dataset_dict.json`` and ``state.json`` as ``save_to_disk`` writes them; the ``configs`` in the
head of ``README.md``; else the names: ``[<config>/]<split>-00000-of-00002.parquet``, or a word for a split (train,
validation, dev, test, …) in the name of a file or folder. What else a name holds, but for numbers, is its config's.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from stages.contract.errors import InputFault, nearest
from stages.contract.parsing import load_json, parsing, shown
from stages.download_shards.config import HuggingfaceSource
from stages.download_shards.sources.dataset_patterns import matches, pattern_below
from stages.download_shards.sources.missing_files import NUMBERED, Missing, missing_files

_WHERE = "download_shards.source.path"
_SUFFIXES = (".arrow", ".parquet")
_DEFAULT = "default"  # the config without a name, as datasets calls it
_WORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_MOST_OF_README = 1 << 20  # bytes
_FENCE = "---"
_MOST_NAMES = 20  # in a message

Group = tuple[str, str]
"""Config and split; the split is empty where no name says one, and where README.md leaves it to the names."""


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one dataset, in order, and those that it lacks."""

    paths: list[Path]
    missing: Missing


def dataset_files(source: HuggingfaceSource) -> DatasetFiles:
    """Return the files of the dataset; none leads out of the folder.

    Raises:
        InputFault: they are several datasets or none, or some are missing and ``allow_missing_files`` is not set.
    """
    root = source.path
    if not root.is_dir():
        raise InputFault(f"{_WHERE}: there is no folder {shown(root)}: give the folder of a dataset")
    found = _find(source, root)
    if found.missing.count and not source.allow_missing_files:
        there = len(found.paths)
        raise InputFault(
            f"{_WHERE}: {shown(root)} holds {there} of {there + found.missing.count} files that belong together: not "
            f"there (missing_file): {found.missing}: expected all of them: download or copy the folder again, or set "
            "download_shards.source.allow_missing_files to true, which reads those that are there"
        )
    return found


def _find(source: HuggingfaceSource, root: Path) -> DatasetFiles:
    if (root / "dataset_dict.json").exists():
        names = [str(name) for name in _listed(root / "dataset_dict.json", "splits")]
        split = _choose("split", source.split, names, root)
        return _saved_files(root, _inside(root, split), None)
    if (root / "state.json").exists():
        return _saved_files(root, root, source.split)
    declared = _declared(root)
    groups = _groups(root, declared)
    without_files = {config for (config, split), patterns in declared.items() if not split and not patterns}
    if not groups and not without_files:
        raise InputFault(
            f"{_WHERE}: {shown(root)}: {'its README.md names none of the' if declared else 'no'} .arrow or .parquet "
            f"{'files' if declared else 'file'} in it: give the folder that save_to_disk wrote, or one of parquet files"
            f"{', or mend the configs of README.md (data_files, data_dir)' if declared else ''}"
        )
    configs = sorted({config for config, _ in groups} | without_files)
    config = _choose("config_name", source.config_name, configs, root)
    if config in without_files:
        raise InputFault(
            f"{_WHERE}: {shown(root)}: the head of its README.md declares several configs, and of "
            f"{shown(config or _DEFAULT, 60)} neither data_files nor data_dir: which files are its is not known: give "
            "it one of these, or choose another config (download_shards.source.config_name)"
        )
    splits = sorted(split for found, split in groups if found == config)
    group = config, _choose("split", source.split, splits, root)
    if len({file.suffix for file in groups[group]}) > 1:
        raise InputFault(
            f"{_WHERE}: {shown(root)}: holds .arrow and .parquet files of one split: expected one kind: give a folder "
            "with one of them"
        )
    names = [file.relative_to(root).as_posix() for file in groups[group]]
    patterns = declared.get(group, declared.get((config, "")))
    return DatasetFiles([_inside(root, name) for name in names], missing_files(names, patterns, _SUFFIXES))


def _choose(key: str, wanted: str | None, found: list[str], root: Path) -> str:
    """Return the one that is wanted, or the only one."""
    names = [name or _DEFAULT for name in found]
    if wanted is None and len(found) == 1:
        return found[0]
    if wanted in names:
        return found[names.index(str(wanted))]
    listed = ", ".join(shown(name, 60) for name in names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
    if wanted is None:
        raise InputFault(
            f"{_WHERE}: {shown(root)} holds several of {key} ({listed}): one is read at a time: set "
            f"download_shards.source.{key} to one of them"
        )
    raise InputFault(
        f"download_shards.source.{key}: found {wanted!r}{nearest(wanted, names)}: {shown(root)} holds {listed}: "
        "set it to one of them"
    )


# ---- as save_to_disk writes them


def _saved_files(root: Path, folder: Path, split: str | None) -> DatasetFiles:
    state = folder / "state.json"
    if split is not None and (saved := _read(state).get("_split")) != split:
        raise InputFault(
            f"download_shards.source.split: found {split!r}: {shown(root)} holds the split {shown(saved)}: set it to "
            "that, or leave it out"
        )
    listed = [one.get("filename") if isinstance(one, dict) else one for one in _listed(state, "_data_files")]
    where = folder.relative_to(root).as_posix()
    names = [(f"{where}/{name}" if where != "." else str(name), str(name)) for name in listed]
    for name, own in names:
        _require_inside(root, name, own)
    missing = [name for name, _ in names if not os.path.lexists(root / name)]
    return DatasetFiles([_inside(root, *one) for one in names if one[0] not in missing], Missing.of(missing))


def _listed(file: Path, key: str) -> list[Any]:
    names = _read(file).get(key)
    if not isinstance(names, list) or not names:
        raise InputFault(
            f"{_WHERE}: {shown(file)}: no list {key}: expected one as save_to_disk writes it: save it again"
        )
    return names


def _read(file: Path) -> dict[str, Any]:
    def cannot(reason: str) -> InputFault:
        return InputFault(f"{_WHERE}: {shown(file)} cannot be read ({reason}): save the dataset again (save_to_disk)")

    with parsing(cannot):
        if not file.is_file():
            raise ValueError("it is no file")
        content = load_json(file.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no mapping")
    return content


def _inside(root: Path, name: str, listed: str | None = None) -> Path:
    """Return the path of a name in the folder; it is a file or folder there, and no link leads out."""
    _require_inside(root, name, listed)
    if not ((root / name).is_file() or (root / name).is_dir()):
        raise InputFault(
            f"{_WHERE}: {shown(root)}: {shown(listed or name)} is no file (not_a_file), or not there: expected the "
            "files of the dataset: copy the folder again"
        )
    return root / name


def _require_inside(root: Path, name: str, listed: str | None) -> None:
    """Refuse a name that leads out of the folder, by itself or by a link."""
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or ".." in path.parts or PurePosixPath(listed or name).is_absolute()
    if leads_out or "\0" in name or not (root / name).resolve().is_relative_to(root.resolve()):
        raise InputFault(
            f"{_WHERE}: {shown(root)}: {shown(listed or name)} leads out of the folder (outside_folder): allowed are "
            "files in it: copy what a link leads to (cp -rL), or give the folder where it lies"
        )


# ---- by names


def _groups(root: Path, declared: Mapping[Group, list[str]]) -> dict[Group, list[Path]]:
    files = sorted(_walk(root))
    if declared:
        return _matching(root, files, declared)
    groups: dict[Group, list[Path]] = {}
    for file in files:
        groups.setdefault(_group_of(PurePosixPath(file.relative_to(root).as_posix())), []).append(file)
    return groups


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(_SUFFIXES):
                yield Path(folder) / name


def _group_of(name: PurePosixPath) -> Group:
    numbered = NUMBERED.fullmatch(name.stem)
    split, rest = _take_word(numbered[1] if numbered else name.stem)
    folders = list(name.parts[:-1])
    if folders[:1] == ["data"]:
        del folders[0]
    if split is None and numbered:
        split, rest = numbered[1], ""
    for number in reversed(range(len(folders))):
        if split is None:
            split, left = _take_word(folders[number])
            if split is not None:
                folders[number : number + 1] = [left] if left else []
    return "/".join([*folders, *([rest] if rest and split is not None else [])]), split or ""


def _take_word(text: str) -> tuple[str | None, str]:
    """Return the split that a word of a name says, and what else the name says but for numbers."""
    words = [word for word in re.split(r"[-._ \d]+", text) if word]
    found = next((index for index, word in enumerate(words) if word.lower() in _WORDS), None)
    if found is None:
        return None, "-".join(words)
    return _WORDS[words[found].lower()], "-".join(words[:found] + words[found + 1 :])


# ---- by README.md


class _PlainLoader(yaml.SafeLoader):
    """Refuses references, by which a small text can become a huge one, and leaves whole numbers as they are written.

    YAML has numbers to the base 60 (1:59:59), for which PyYAML takes quadratic time.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has references (*name)")
        return super().compose_node(parent, index)


def _as_written(loader: Any, node: Any) -> Any:
    return loader.construct_scalar(node)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _as_written)


def _declared(root: Path) -> dict[Group, list[str]]:
    """Return the patterns of each config and split that the head of README.md declares."""
    readme = root / "README.md"
    if not readme.is_file() or not readme.resolve().is_relative_to(root.resolve()):
        return {}

    def cannot(reason: str) -> InputFault:
        return InputFault(f"{_WHERE}: {shown(readme)}: its head cannot be read ({reason}): mend it, or remove the file")

    with parsing(cannot), readme.open("rb") as file:
        text = file.read(_MOST_OF_README).decode("utf-8-sig")
        head = _head(text)
        content = _PlainLoader(head).get_single_data() if head else None
        configs = content.get("configs") if isinstance(content, dict) else None
        return dict(_patterns(configs)) if isinstance(configs, list) else {}


def _head(text: str) -> str:
    """Return what stands between a first line --- and the next such line; nothing: there is no head."""
    lines = text.split("\n")
    if lines[0].rstrip() != _FENCE:
        return ""
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == _FENCE), 1)
    return "\n".join(lines[1:end])


def _patterns(configs: Sequence[Any]) -> Iterator[tuple[Group, list[str]]]:
    declared: set[Group] = set()
    for config in configs:
        name, folder, files = str(config.get("config_name", "")), config.get("data_dir"), config.get("data_files")
        name, folder = "" if name == _DEFAULT else name, "" if folder is None else str(folder)
        if isinstance(files, str) or (isinstance(files, list) and all(isinstance(one, str) for one in files)):
            files = [{"split": "train", "path": files}] if files else None
        if not files and not folder and len(configs) == 1:
            return  # all files are its: their names say more
        for one in files or [{"split": "", "path": f"{folder}/**" if folder else []}]:
            paths = [one["path"]] if isinstance(one["path"], str) else one["path"]
            group = name, str(one["split"])
            if group in declared:
                raise ValueError(f"it declares split {group[1]!r} of config {name or _DEFAULT!r} twice")
            declared.add(group)
            yield group, [pattern_below(folder if files else "", str(path)) for path in paths]


def _matching(root: Path, files: list[Path], declared: Mapping[Group, list[str]]) -> dict[Group, list[Path]]:
    """Return the files of each config and split that has some; the splits of a folder are those that names say."""
    names = {file: file.relative_to(root).as_posix() for file in files}
    found: dict[Group, list[Path]] = {}
    for (config, split), patterns in declared.items():
        matching = [file for file in files if matches(names[file], patterns)]
        above = patterns[0].count("/") if patterns else 0  # what the folder itself is called says nothing
        below = [PurePosixPath(*PurePosixPath(names[file]).parts[above:]) for file in matching]
        splits = [split or _group_of(name)[1] for name in below]
        for file, one in zip(matching, splits, strict=True):
            found.setdefault((config, one if any(splits) else "train"), []).append(file)
    return found
