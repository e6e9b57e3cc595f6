"""What every source hands over: one entry after another, with its bytes or the reason why there are none."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One entry of a shard's part of the source."""

    index: int
    """Its place in the shard."""
    row: dict[str, Any]
    """Columns (caption,) (captions,) url and further ones."""
    content: bytes | None
    error: str | None
    """Why there is no content."""
