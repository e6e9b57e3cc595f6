"""Read an experiment: YAML, what it extends, the command line's overrides, and the shared sections."""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from pipeline.config.merging import merge
from pipeline.config.messages import describe, describe_truth_values, found, keys_of, models_in
from pipeline.config.recorded import without_masks
from pipeline.config.schema import CAPTION_IMAGES, SHARED, STAGES, ReuseConfig, RunConfig
from pipeline.config.yaml_files import DEEPEST, LARGEST_OVERRIDE, parse_yaml, read_yaml
from pipeline.errors import UsageError
from stages.contract.secrets import remember_secrets
from stages.contract.texts import one_line
from stages.formats.captions import CaptionMix

Tree = dict[str, Any]
LONGEST_CHAIN = 32  # files that extend one another


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, merge and check one experiment; ``overrides`` are ``dotted.key=value`` words."""
    path = Path(path)
    tree, files, left_out = _read_with_bases(path)
    folders = [file.parent for file in files]
    tree.setdefault("name", path.stem)
    remember_secrets(tree)  # before anything is checked, so that no message about it quotes them
    for word in overrides:
        _apply_override(tree, word)
    remember_secrets(tree)
    _name_mix(tree)
    _inherit_common_sections(tree)
    return _validate(tree, folders, one_line(path)).with_left_out(left_out)


def _validate(tree: Tree, folders: Sequence[Path], where: str) -> RunConfig:
    """Check a whole tree; paths in it are looked for beside the config, in ``folders``."""
    try:
        config = RunConfig.model_validate(tree, context={"folders": folders})
    except ValidationError as error:
        raise UsageError(describe(error, RunConfig, where)) from None
    if wrong := describe_truth_values(tree, config.model_dump(), where):
        raise UsageError(wrong)
    return config


def load_reused(reuse: ReuseConfig) -> RunConfig:
    """Read and check the experiment whose artifact is taken, with the overrides that it is run with."""
    return load_config(reuse.config, reuse.overrides)


def load_resolved(tree: Tree, overrides: Sequence[str], where: str) -> RunConfig:
    """Check a configuration that was recorded, with ``dotted.key=value`` overrides; ``where`` names it in messages.

    It names all settings: another ``kind`` replaces those of the former, as it does where a file extends another. For
    credentials, which are not recorded, the environment's hold.
    """
    tree = copy.deepcopy(without_masks(tree))
    for word in overrides:
        key, sign, value = word.partition("=")
        is_kind = sign and key.endswith(".kind")
        _apply_override(tree, f"{key.removesuffix('.kind')}={{kind: {value}}}" if is_kind else word)
    remember_secrets(tree)
    return _validate(tree, [Path.cwd()], where)


def files_of_config(path: Path) -> list[Path]:
    """Return the file and all that it extends, nearest first."""
    return _read_with_bases(path)[1]


def _read_with_bases(path: Path, chain: tuple[Path, ...] = ()) -> tuple[Tree, list[Path], list[str]]:
    """Return the merged tree of a file and all that it extends, these files, nearest first, and what is left out."""
    try:
        path = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a NUL in the name
        raise UsageError(f"{one_line(path)}: is no path ({one_line(error, 200)}); give that of a YAML config") from None
    if path in chain:
        names = one_line(" -> ".join(p.name for p in (*chain, path)))
        raise UsageError(f"{one_line(path)}: extends itself through {names}; break the loop")
    if len(chain) == LONGEST_CHAIN:
        raise UsageError(f"{one_line(path)}: extends more than {LONGEST_CHAIN} files in a row; put some together")
    tree = read_yaml(path)
    base_name = tree.pop("extends", None)
    if base_name is None:
        return tree, [path], []
    if not isinstance(base_name, str):
        raise UsageError(f"{one_line(path)}: extends: found {found(base_name)}; expected the path of one YAML file")
    base, files, before = _read_with_bases(path.parent / base_name, (*chain, path))
    base.pop("name", None)
    merged, left_out = merge(base, tree, RunConfig)
    return merged, [path, *files], [*before, *left_out]


def _apply_override(tree: Tree, word: str) -> None:
    key, sign, text = word.partition("=")
    if not sign or not key:
        shown = re.match(r"[\w.\-]{0,80}", word)
        raise UsageError(
            f"{shown[0] if shown else ''!r}: not an override; write dotted.key=value, such as "
            "train_decoder.training.num_steps=500"
        )
    where, parts = one_line(key, 200), key.split(".")
    if len(text) > LARGEST_OVERRIDE or len(parts) > DEEPEST or not all(parts):
        raise UsageError(
            f"{where}: not an override; a key has 1 to {DEEPEST} names between dots, and a value at most "
            f"{LARGEST_OVERRIDE:,} characters; put what is longer into a file"
        )
    value = parse_yaml(text, where, key=key)
    *parents, last = parts
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
        shown = one_line(where, 200)
        raise UsageError(f"{shown}: is {found(below, where)}, a plain value, so no key below it can be set")
    return below


def _list_index(node: list[Any], part: str, where: str) -> int:
    if not (part.isdecimal() and len(part) < 10 and int(part) < len(node)):
        raise UsageError(
            f"{one_line(where, 200)}: {found(part)} is not an index of this list; allowed: 0 to {len(node) - 1}"
        )
    return int(part)


def _name_mix(tree: Tree) -> None:
    """Name the weights of pseudo-captions, where there are any, wherever captions are read: so they are recorded."""
    reuse, captions = tree.get("reuse") or {}, tree.get("captions") or {}
    if not (isinstance(reuse, dict) and isinstance(captions, dict)):
        return  # the schema says what is wrong
    if tree.get(CAPTION_IMAGES) is None and CAPTION_IMAGES not in reuse:
        return
    mix = CaptionMix().model_dump() if captions.get("mix") is None else captions["mix"]
    tree["captions"] = captions | {"mix": mix}
    for section in map(tree.get, STAGES):
        own = section.get("captions") if isinstance(section, dict) else None
        if isinstance(own, dict) and own.get("mix") is None:
            own["mix"] = mix


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
