"""What the specs of all models share: checks that name the field, and reading and writing as plain data; no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, fields, is_dataclass
from pkgutil import resolve_name
from typing import Any, ClassVar, Final, Self, TypeVar, get_args, get_origin, get_type_hints

NORM_GROUPS: Final[int] = 16
HEAD_DIM: Final[int] = 32
MOST_FACTOR: Final[float] = 1_000.0
"""The inner width of a feed-forward layer, as a multiple of the network's, is at most this."""
#: Metadata of a field that plain data leaves out where it is None, as if there were no such field: so what was written
#: before there was one, fingerprints included, stays the same to the byte.
ABSENT: Final = {"absent": True}


class Settings:
    """Base of the frozen dataclasses that describe a model; a section may embed one, and refuses keys it lacks."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "allow_inf_nan": False}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; :meth:`from_dict` reads them."""
        plain: dict[str, Any] = _plain(asdict(self))  # type: ignore[call-overload]
        given = {item.name for item in given_fields(self)}
        return {name: value for name, value in plain.items() if name in given}

    def of_loss(self) -> dict[str, Any]:
        """Return, as JSON-ready values, what a training loss is of: losses by other such settings are not comparable.

        By default that of those fields which are settings themselves.
        """
        parts = {name: value.of_loss() for name, value in vars(self).items() if isinstance(value, Settings)}
        return {name: part for name, part in parts.items() if part}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings that :meth:`to_dict` wrote.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: a value is not allowed.
        """
        settings: Self = _typed(cls, values)
        return settings


class Spec(Settings):
    """Base of the spec of a model: what config.json holds of it."""

    model: ClassVar[str]
    """The model's class, as `module:class`: it is made from the spec, and imported only then."""

    def build(self) -> Any:
        """Return the model with random weights; imports torch."""
        return resolve_name(self.model)(self)

    def num_parameters(self) -> int:
        """Return how many weights the model has, without memory for them."""
        import torch

        with torch.device("meta"):
            return sum(weight.numel() for weight in self.build().parameters())


S = TypeVar("S", bound=Spec)


def read_kind(family: str, specs: Mapping[str, type[S]], values: Mapping[str, Any]) -> S:
    """Return the spec of a family that its ``to_dict`` wrote.

    Raises:
        ValueError: the kind is unknown, or a value is not allowed.
        TypeError: a field is missing or unknown.
    """
    kind: Any = values.get("kind")
    if kind not in specs:
        raise ValueError(f"{family}: found kind {kind!r}: expected one of {', '.join(specs)}")
    return specs[kind].from_dict(values)


def given_fields(settings: Any) -> tuple[Field[Any], ...]:
    """Return the fields of a dataclass that plain data has: all but those that are None and :data:`ABSENT`."""
    return tuple(
        item for item in fields(settings) if not (item.metadata == ABSENT and getattr(settings, item.name) is None)
    )


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a tree by their dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _typed(annotation: Any, value: Any) -> Any:
    """Return plain data as a type wants it: dataclasses, unions of them by `kind`, tuples, dicts; or as it is."""
    if get_origin(annotation) is tuple:
        return tuple(value)
    if get_origin(annotation) is dict:
        return {name: _typed(get_args(annotation)[1], item) for name, item in value.items()}
    variants = [variant for variant in get_args(annotation) or (annotation,) if is_dataclass(variant)]
    if not variants or not isinstance(value, Mapping):
        return value
    chosen: Any = next((v for v in variants if value.get("kind") in (None, getattr(v, "kind", None))), variants[0])
    hints = get_type_hints(chosen)
    return chosen(**{name: _typed(hints.get(name), item) for name, item in value.items()})


def require(settings: object, name: str, holds: bool, allowed: str) -> None:
    """Refuse a field's value unless the condition holds."""
    if not holds:
        found = getattr(settings, name)
        raise ValueError(f"{type(settings).__name__}.{name}: found {found!r}: expected {allowed}")


def require_positive(settings: object, *names: str) -> None:
    """Refuse numbers below 1."""
    for name in names:
        require(settings, name, getattr(settings, name) >= 1, "1 or more")


def require_widths(settings: object, channels: tuple[int, ...]) -> None:
    """Refuse widths by level that the U-Net's normalisation and attention heads do not divide."""
    require(settings, "channels", len(channels) >= 1, "one width per level")
    require(settings, "channels", all(c % HEAD_DIM == 0 and c > 0 for c in channels), f"multiples of {HEAD_DIM}")
