"""Lay an experiment over the one that it extends: what a change of `kind` keeps, and what it leaves out."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from pipeline.config.messages import keys_of, models_in

Tree = dict[str, Any]


def merge(base: Tree, over: Tree, root: type[Any]) -> tuple[Tree, list[str]]:
    """Return the merged tree, and the keys of the base that are left out, as another kind does not have them.

    Mappings merge, everything else replaces. Where a mapping is of another `kind` than the base's, it keeps what both
    kinds have alike: keys of the same type and the same default. A default that a kind has of its own (the learning
    rate of a GAN) says that the other kind's value would not suit it.
    """
    left_out: list[str] = []
    return _merge(base, over, [root], "", left_out), left_out


def _merge(base: Tree, over: Tree, models: Sequence[Any], where: str, left_out: list[str]) -> Tree:
    if "kind" in over and "kind" in base and over["kind"] != base["kind"]:
        shared = set(_common_keys(_of_kind(models, base["kind"]), _of_kind(models, over["kind"])))
        dropped = [key for key in base if key not in shared and key not in over]
        left_out += [f"{where}.{key}" for key in dropped]
        base = {key: value for key, value in base.items() if key in shared}
    if "kind" in {**base, **over}:
        models = _of_kind(models, {**base, **over}["kind"]) or models
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            inner = [one for model in models if key in keys_of(model) for one in models_in(keys_of(model)[key])]
            merged[key] = _merge(below, value, inner, f"{where}.{key}" if where else key, left_out)
        else:
            merged[key] = value
    return merged


def _of_kind(models: Sequence[Any], kind: Any) -> list[Any]:
    return [model for model in models if kind in get_args(keys_of(model).get("kind"))]


def _common_keys(before: Sequence[Any], after: Sequence[Any]) -> Iterator[str]:
    """Yield the keys that both kinds have alike."""
    for old in before:
        for new in after:
            for key in keys_of(old):
                if key != "kind" and key in keys_of(new) and _setting(old, key) == _setting(new, key):
                    yield key


def _setting(model: Any, key: str) -> tuple[Any, Any]:
    """Return type and default of a key."""
    if is_dataclass(model):
        default = next((item.default, item.default_factory) for item in fields(model) if item.name == key)
        return keys_of(model)[key], default
    info = model.model_fields[key]
    return info.annotation, (info.default, info.default_factory)
