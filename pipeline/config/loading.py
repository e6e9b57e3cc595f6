"""Read an experiment: YAML, what it extends, the command line's overrides, and the shared sections."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from pipeline.config.messages import describe, found, keys_of, models_in
from pipeline.config.schema import SHARED, STAGES, RunConfig
from pipeline.errors import UsageError
from stages.contract.secrets import remember_secrets

Tree = dict[str, Any]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, merge and check one experiment; ``overrides`` are ``dotted.key=value`` words."""
    path = Path(path)
    tree, files = _read_with_bases(path)
    folders = [file.parent for file in files]
    tree.setdefault("name", path.stem)
    remember_secrets(tree)  # before anything is checked, so that no message about it quotes them
    for word in overrides:
        _apply_override(tree, word)
    remember_secrets(tree)
    _inherit_common_sections(tree)
    try:
        return RunConfig.model_validate(tree, context={"folders": folders})
    except ValidationError as error:
        raise UsageError(describe(error, RunConfig, str(path))) from None


def files_of_config(path: Path) -> list[Path]:
    """Return the file and all that it extends, nearest first."""
    return _read_with_bases(path)[1]


def _read_with_bases(path: Path, chain: tuple[Path, ...] = ()) -> tuple[Tree, list[Path]]:
    """Return the merged tree of a file and all that it extends, and these files, nearest first."""
    path = path.resolve()
    if path in chain:
        raise UsageError(
            f"{path}: extends itself through {' -> '.join(p.name for p in (*chain, path))}; break the loop"
        )
    tree = read_yaml(path)
    base_name = tree.pop("extends", None)
    if base_name is None:
        return tree, [path]
    if not isinstance(base_name, str):
        raise UsageError(f"{path}: extends: found {found(base_name)}; expected the path of one YAML file")
    base, files = _read_with_bases(path.parent / base_name, (*chain, path))
    base.pop("name", None)
    return _merge(base, tree), [path, *files]


def read_yaml(path: Path) -> Tree:
    """Read a YAML file whose top level is a mapping."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file; give the path of a YAML config, such as configs/quickstart.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}; give the path of a YAML config") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is not valid YAML: {' '.join(str(error).split())}; correct it there") from None
    if not isinstance(tree, dict):
        raise UsageError(
            f"{path}: found {type(tree).__name__}; expected a mapping of sections such as `download_shards:`"
        )
    return tree


def _merge(base: Tree, over: Tree) -> Tree:
    """Lay one tree over another: mappings merge, everything else replaces; so does a mapping of another `kind`."""
    if "kind" in over and "kind" in base and over["kind"] != base["kind"]:
        return over
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _apply_override(tree: Tree, word: str) -> None:
    key, sign, text = word.partition("=")
    if not sign or not key:
        shown = re.match(r"[\w.\-]*", word)
        raise UsageError(
            f"{shown[0] if shown else ''!r}: not an override; write dotted.key=value, such as "
            "train_decoder.training.num_steps=500"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"{key}: the value of {len(text)} characters is not valid YAML; quote it") from None
    *parents, last = key.split(".")
    node: Any = tree
    for depth, part in enumerate(parents):
        node = _step_into(node, part, where=".".join(parents[: depth + 1]))
    if isinstance(node, list):
        node[_list_index(node, last, key)] = value
    else:
        node[last] = value


def _step_into(node: Any, part: str, where: str) -> Any:
    below = node[_list_index(node, part, where)] if isinstance(node, list) else node.setdefault(part, {})
    if below is None:
        below = node[part] = {}
    if not isinstance(below, dict | list):
        raise UsageError(f"{where}: is {found(below, where)}, a plain value, so no key below it can be set")
    return below


def _list_index(node: list[Any], part: str, where: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise UsageError(f"{where}: {part!r} is not an index of this list; allowed: 0 to {len(node) - 1}")
    return int(part)


def _inherit_common_sections(tree: Tree) -> None:
    """Copy each shared top-level section into the stages that have a field of that name and do not set it."""
    for stage in STAGES:
        section = tree.get(stage)
        if not isinstance(section, dict):
            continue
        fields = _fields_of(stage, section.get("kind"))
        for key in SHARED:
            if tree.get(key) is not None and key not in section and key in fields:
                section[key] = tree[key]


def _fields_of(stage: str, kind: Any) -> set[str]:
    """Return the field names of the stage's config class; of a union, those of the variant of this kind."""
    variants = list(models_in(RunConfig.model_fields[stage].annotation))
    if len(variants) > 1:
        variants = [model for model in variants if kind in get_args(keys_of(model)["kind"])]
    return {name for model in variants for name in keys_of(model)}
