"""The numbers that an experiment's keys hold: where they are, and what pydantic says of a value there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from pipeline.config.messages import keys_of
from pipeline.config.schema import RunConfig

Location = tuple[str | int, ...]
Make = Callable[[Any], Any]
Number = tuple[Location, Make]


def numbers_of(annotation: Any, kind: type[float]) -> Iterator[Number]:
    """Yield where a type holds numbers of a kind, int or float, and what makes a tree with a value there."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is kind:
        yield (), lambda value: value
    elif isinstance(annotation, type) and (hasattr(annotation, "model_fields") or is_dataclass(annotation)):
        yield from _numbers_of_keys(keys_of(annotation), kind)
    elif origin is Annotated:
        yield from numbers_of(args[0], kind)
    elif origin in (Union, UnionType):
        for option in args:
            yield from numbers_of(option, kind)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from (_below(path, make, "a", lambda inner: {"a": inner}) for path, make in numbers_of(args[1], kind))
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        for index, item in enumerate(item for item in args if item is not ...):
            before = [kind(1)] * index
            yield from (_below(path, make, index, partial(_at_end, before)) for path, make in numbers_of(item, kind))
    else:
        assert origin in (None, Literal), f"{annotation} may hold numbers that nothing here looks for"


def _numbers_of_keys(keys: Mapping[str, Any], kind: type[float]) -> Iterator[Number]:
    tag = {"kind": get_args(keys["kind"])[0]} if "kind" in keys else {}
    for name, annotation in keys.items():
        yield from (
            _below(path, make, name, partial(_with_key, tag, name)) for path, make in numbers_of(annotation, kind)
        )


def _below(path: Location, make: Make, part: str | int, wrap: Make) -> Number:
    return (part, *path), lambda value: wrap(make(value))


def _at_end(before: list[float], value: Any) -> list[Any]:
    return [*before, value]


def _with_key(tag: dict[str, str], name: str, value: Any) -> dict[str, Any]:
    return {**tag, name: value}


def faults_at(path: Location, tree: Any) -> list[str]:
    """Return the types of what is found wrong at a path; pydantic's own has the tags of unions between its keys."""
    try:
        RunConfig.model_validate({"name": "a", **tree})
    except ValidationError as error:
        return [fault["type"] for fault in error.errors() if _is_within(path, fault["loc"])]
    return []


def _is_within(path: Location, location: tuple[Any, ...]) -> bool:
    parts = iter(location)
    return all(any(part == found for found in parts) for part in path)
