"""A measured figure with its interval, the number of rows behind it, and the protocol that it was measured under.

Two figures may be compared where their protocols are equal: the same features by the same weights, the same prompts and
true images, as many images, scaled alike, of the same seed.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

Protocol = Mapping[str, str]
"""How figures were measured, by the names of what counts: features, clip, prompts, images, resize, seed and so on."""

VALIDATED, CAPTIONS = "validated", "captions"
"""What the protocol of a validation calls the digest of the images that it was of, and kind and digest of captions."""

SPLIT = "held_out"
"""Earlier versions had in their place the digest of all that the split puts aside, whatever they validated on of it."""

_DIGEST_LENGTH = 16


@dataclass(frozen=True)
class Measure:
    """A figure; ``low`` and ``high`` bound its 95 % interval, and are none where there is no interval."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    value: float
    low: float | None
    high: float | None
    n: int
    """Images, or pairs, that it is the figure of."""
    protocol: str
    """Digest of its protocol (:func:`protocol_digest`)."""

    def interval(self, format: Callable[[float], str]) -> str:
        """Return '<low> to <high>'; "": it has no interval."""
        return "" if self.low is None or self.high is None else f"{format(self.low)} to {format(self.high)}"

    def words(self, format: Callable[[float], str]) -> str:
        """Return interval and number as they stand beside the figure."""
        interval = self.interval(format)
        return f"{interval}, n {self.n:,}" if interval else f"n {self.n:,}"


def protocol_digest(protocol: Protocol) -> str:
    """Return what identifies a protocol."""
    content = json.dumps(dict(protocol), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH]


def protocol_differences(one: Protocol, other: Protocol) -> dict[str, tuple[str, str]]:
    """Return what two protocols do not share, by name; "" where one does not say it."""
    names = sorted({*one, *other})
    return {name: (one.get(name, ""), other.get(name, "")) for name in names if one.get(name) != other.get(name)}
