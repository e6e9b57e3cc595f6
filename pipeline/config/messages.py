"""Turn pydantic's findings into sentences: file, dotted key, what was found, what is allowed, the nearest name."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import ValidationError


def describe(error: ValidationError, root: type[Any], where: str) -> str:
    """Return one line per fault; ``where`` is the file that the reader has to open."""
    lines = [f"{where}: {_sentence(fault, root)}" for fault in error.errors(include_url=False)]
    return "\n".join(dict.fromkeys(lines))


def _sentence(fault: Any, root: type[Any]) -> str:
    location, tags = _dotted(fault["loc"], root)
    found = fault.get("input")
    match fault["type"]:
        case "extra_forbidden":
            return _unknown_key(location, _fields_at(fault["loc"], root))
        case "missing":
            return f"{location}: is missing; set it"
        case "union_tag_not_found":
            return f"{location}.kind: is missing; allowed: {fault['ctx'].get('expected_tags') or ', '.join(tags)}"
        case "union_tag_invalid":
            allowed = fault["ctx"]["expected_tags"]
            return f"{location}.kind: found {fault['ctx']['tag']!r}; allowed: {allowed}"
        case "value_error":
            message = str(fault["ctx"]["error"])
            return f"{location}: {message}" if location else message
        case _:
            return f"{location}: found {found!r}; {_lower_first(fault['msg'])}"


def _unknown_key(location: str, allowed: list[str]) -> str:
    name = location.rpartition(".")[2]
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{location}: unknown key; {hint}allowed: {', '.join(sorted(allowed))}"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _dotted(path: tuple[Any, ...], root: type[Any]) -> tuple[str, list[str]]:
    """Return the key as the user wrote it (pydantic adds the union's tags to the path), and the tags seen."""
    kept, tags = [], []
    for depth, part in enumerate(path):
        if isinstance(part, str) and _is_tag(path[:depth], part, root):
            tags.append(part)
        else:
            kept.append(str(part))
    return ".".join(kept), tags


def _is_tag(parents: tuple[Any, ...], part: str, root: type[Any]) -> bool:
    models = list(_models_at(parents, root))
    return bool(models) and all(part not in model.model_fields for model in models) and part in _tags_of(models)


def _tags_of(models: list[Any]) -> set[str]:
    kinds = [model.model_fields["kind"].annotation for model in models if "kind" in model.model_fields]
    return {tag for kind in kinds for tag in get_args(kind)} | {model.__name__ for model in models}


def _fields_at(path: tuple[Any, ...], root: type[Any]) -> list[str]:
    models = list(_models_at(path[:-1], root))
    return sorted({name for model in models for name in model.model_fields})


def _models_at(path: tuple[Any, ...], root: type[Any]) -> Iterator[Any]:
    """Follow a path through the schema; a union's tag narrows to its variant."""
    models: list[Any] = [root]
    for part in path:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            models = [below for field in fields for below in models_in(field.annotation)]
        elif isinstance(part, str):
            tagged = [model for model in models if part in _tags_of([model])]
            models = tagged or models
    yield from models


def models_in(annotation: Any) -> Iterator[Any]:
    """Yield the config models inside a type: itself, or the variants of a union, or what a container holds."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)
