"""Turn pydantic's findings into sentences: file, dotted key, what was found, what is allowed, the nearest name."""

import difflib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from pipeline.config.renamed import RENAMED
from stages.contract.secrets import is_secret_name
from stages.contract.texts import one_line, show_value

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's words for sections and for dataclasses
MOST_FAULTS = 20
LONGEST_FAULT = 2000  # characters; the longest list of allowed keys has 1,200
_NO_MAPPING = ("model_type", "dataclass_type", "model_attributes_type")
_IN_YAML = {
    "tuple_type": "expected a list, such as [a, b]", "list_type": "expected a list, such as [a, b]",
    "dict_type": "expected a mapping, such as {a: b}", "mapping_type": "expected a mapping, such as {a: b}",
}  # fmt: skip


def describe(error: ValidationError, root: type[Any], where: str) -> str:
    """Return one line per fault; ``where`` is the file that the reader has to open."""
    faults = error.errors(include_url=False)
    own = [fault for fault in faults if not (fault["type"] == "too_short" and _has_faults_below(fault["loc"], faults))]
    return _listed([_sentence(fault, root) for fault in own], where)


def _has_faults_below(path: tuple[Any, ...], faults: Iterable[Any]) -> bool:
    """Return whether an item of a list is wrong: pydantic then counts the list without it."""
    return any(len(fault["loc"]) > len(path) and fault["loc"][: len(path)] == path for fault in faults)


def describe_truth_values(given: Any, checked: Any, where: str) -> str:
    """Return one line per truth value that was taken for a number; empty: there is none."""
    wrong = _truth_values_as_numbers(given, checked)
    return _listed([f"{key}: found {str(value).lower()}; expected a number" for key, value in wrong], where)


def _listed(sentences: list[str], where: str) -> str:
    lines = dict.fromkeys(f"{where}: {sentence}" for sentence in sentences)
    further = [f"{where}: and {len(lines) - MOST_FAULTS} more"] if len(lines) > MOST_FAULTS else []
    return "\n".join([one_line(line, LONGEST_FAULT) for line in lines][:MOST_FAULTS] + further)


def _sentence(fault: Any, root: type[Any]) -> str:
    location = _dotted(fault["loc"], root)
    match fault["type"]:
        case "union_tag_not_found" | "union_tag_invalid":
            location = f"{location}.kind"
            what = _wrong_kind(fault, root)
        case kind if kind in _UNKNOWN:
            what = _unknown_key(location, list(_models_at(fault["loc"][:-1], root)))
        case "missing":
            what = "is missing; set it"
        case "value_error":
            return _value_error(location, str(fault["ctx"]["error"]), list(_models_at(fault["loc"], root)))
        case kind if kind in _NO_MAPPING:
            allowed = ", ".join(_keys_of_all(_models_at(fault["loc"], root)))
            what = f"found {found(fault['input'], location)}; allowed: a mapping of {allowed}"
        case "finite_number":
            null = ", or null" if _may_be_null(fault["loc"], root) else ""
            what = f"found {show_value(fault['input'])}; expected a finite number{null}"  # infinity is no secret
        case _:
            expected = _IN_YAML.get(fault["type"], fault["msg"][:1].lower() + fault["msg"][1:])
            what = f"found {found(fault['input'], location)}; {expected}"
    return f"{location}: {what}"


def _truth_values_as_numbers(given: Any, checked: Any, key: str = "") -> Iterator[tuple[str, bool]]:
    """Yield each truth value that was taken for a number, with its dotted key: ``on`` would be a rate of 1.0.

    ``checked`` is what pydantic made of ``given``: of a truth value it makes a number wherever one is expected.
    """
    if isinstance(given, bool):
        if type(checked) in (int, float):
            yield key, given
    elif isinstance(given, dict) and isinstance(checked, dict):
        for name in (name for name in given if name in checked):
            yield from _truth_values_as_numbers(given[name], checked[name], f"{key}.{name}".lstrip("."))
    elif isinstance(given, list | tuple) and isinstance(checked, list | tuple):
        for index, (one, other) in enumerate(zip(given, checked, strict=False)):
            yield from _truth_values_as_numbers(one, other, f"{key}.{index}")


def found(value: Any, key: str = "") -> str:
    """Return a value for a message; what may hold a secret, as all that is given for file systems, by its type."""
    is_secret = isinstance(value, dict) or key.split(".", maxsplit=1)[0] == "storage" or is_secret_name(key)
    return f"a value of type {type(value).__name__}" if is_secret else show_value(value)


def _may_be_null(path: tuple[Any, ...], root: type[Any]) -> bool:
    """Return whether the key at the end of a path takes null, which may stand there for no limit."""
    return any(type(None) in get_args(annotation) for annotation in _annotations_at(path, root))


def _annotations_at(path: tuple[Any, ...], root: type[Any]) -> list[Any]:
    """Return the types of the key at the end of a path, one for each section that may have it."""
    models = _models_at(path[:-1], root) if path else ()
    return [keys_of(model)[path[-1]] for model in models if path[-1] in keys_of(model)]


def _near(name: str, allowed: Collection[str]) -> list[str]:
    return difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)


def describe_choice(name: str, allowed: Collection[str]) -> str:
    """Return what to say of a name that is none of those allowed: what was found, the nearest one, and all of them."""
    near = _near(name, allowed)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"found {show_value(name)}; {hint}allowed: {', '.join(allowed)}"


def _wrong_kind(fault: Any, root: type[Any]) -> str:
    tag = f"found {found(fault['ctx']['tag'])}" if "tag" in fault["ctx"] else "is missing"
    return f"{tag}; allowed: {', '.join(map(repr, _kinds_of(_models_at(fault['loc'], root))))}"


def _unknown_key(location: str, models: list[Any]) -> str:
    above, _, name = location.rpartition(".")
    allowed = _keys_of_all(models)
    near = _near(name, allowed)
    new = RENAMED.get(location)
    if new and (not new.startswith(f"{above}.") or _is_below(models, new.removeprefix(f"{above}."))):
        near = [new]
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown key; {hint}allowed: {', '.join(allowed)}"


def _value_error(location: str, message: str, models: list[Any]) -> str:
    """Return a check's own message, with the dotted key in place of the name of the class that it begins with."""
    name, dot, rest = message.partition(".")
    if not location or not dot or not name.isidentifier():
        return f"{location}: {message}" if location else message
    if name.endswith("Spec") or any(model.__name__ == name for model in models):
        return f"{location}.{rest}"
    parts = [part for model in models for part in keys_of(model).items()]
    keys = [key for key, part in parts if name in {inner.__name__ for inner in models_in(part)}]
    return f"{location}.{keys[0]}.{rest}" if keys else f"{location}: {message}"


def _dotted(path: tuple[Any, ...], root: type[Any]) -> str:
    """Return the key as the user wrote it: pydantic adds the union's tags to the path."""
    return ".".join(
        str(part)
        for depth, part in enumerate(path)
        if not _is_tag(path[:depth], part, root) and not _is_alternative(path[:depth], root)
    )


def _is_tag(parents: tuple[Any, ...], part: Any, root: type[Any]) -> bool:
    models = list(_models_at(parents, root))
    return all(part not in keys_of(model) for model in models) and part in _tags_of(models)


def _is_alternative(parents: tuple[Any, ...], root: type[Any]) -> bool:
    """Return whether what follows is pydantic's name of one of several types that a key takes, all but sections."""
    return any(
        get_origin(annotation) in (Union, UnionType)
        and len(set(get_args(annotation)) - {type(None)}) > 1
        and not any(models_in(annotation))
        for annotation in _annotations_at(parents, root)
    )


def _tags_of(models: list[Any]) -> list[str]:
    return [*_kinds_of(models), *(model.__name__ for model in models)]


def _kinds_of(models: Iterable[Any]) -> list[str]:
    return [tag for model in models for tag in get_args(keys_of(model).get("kind"))]


def _keys_of_all(models: Iterable[Any]) -> list[str]:
    return sorted({name for model in models for name in keys_of(model)})


def _models_at(path: tuple[Any, ...], root: type[Any]) -> Iterator[Any]:
    """Follow a path through the schema; a union's tag narrows to its variant."""
    models: list[Any] = [root]
    for part in path:
        annotations = [keys_of(model)[part] for model in models if part in keys_of(model)]
        if annotations:
            models = [below for annotation in annotations for below in models_in(annotation)]
        elif isinstance(part, str):
            tagged = [model for model in models if part in _tags_of([model])]
            models = tagged or models
    yield from models


def _is_below(models: Iterable[Any], path: str) -> bool:
    """Return whether one of the sections has this dotted key."""
    key, _, rest = path.partition(".")
    annotations = [keys_of(model)[key] for model in models if key in keys_of(model)]
    return any(not rest or _is_below(models_in(annotation), rest) for annotation in annotations)


def models_in(annotation: Any) -> Iterator[Any]:
    """Yield the sections and dataclasses inside a type: itself, the variants of a union, what a container holds."""
    if isinstance(annotation, type) and (hasattr(annotation, "model_fields") or is_dataclass(annotation)):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def keys_of(model: Any) -> dict[str, Any]:
    """Return the keys of a section or dataclass, each with its type."""
    if is_dataclass(model):
        hints = get_type_hints(model, include_extras=True)
        return {item.name: hints[item.name] for item in fields(model) if item.init}
    return {name: info.annotation for name, info in model.model_fields.items()}
