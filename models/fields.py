"""What the decoders' configurations share: checks that name the field, and JSON-ready values."""

from dataclasses import asdict
from typing import Any, Final

NORM_GROUPS: Final[int] = 16
HEAD_DIM: Final[int] = 32


def plain_fields(config: Any) -> dict[str, Any]:
    """Return a dataclass's fields as JSON-ready values: tuples become lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def require(config: object, name: str, holds: bool, allowed: str) -> None:
    """Refuse a field's value unless the condition holds.

    Raises:
        ValueError: it does not; the message names the class, the field, the value and what is allowed.
    """
    if not holds:
        found = getattr(config, name)
        raise ValueError(f"{type(config).__name__}.{name}: found {found!r}: expected {allowed}")


def require_widths(config: object, channels: tuple[int, ...]) -> None:
    """Refuse widths by level that the U-Net's normalisation and attention heads do not divide.

    Raises:
        ValueError: there is none, or one is no multiple.
    """
    require(config, "channels", len(channels) >= 1, "one width per level")
    require(config, "channels", all(c % HEAD_DIM == 0 and c > 0 for c in channels), f"multiples of {HEAD_DIM}")
