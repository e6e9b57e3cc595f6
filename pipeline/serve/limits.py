"""What ``corgi serve`` takes; no torch, no Ray."""

from dataclasses import dataclass
from typing import Final

TOKEN_VARIABLE: Final = "CORGI_SERVE_TOKEN"
SHORTEST_TOKEN: Final = 16  # characters
MOST_BATCH: Final = 64
MOST_WAITING: Final = 100_000
MOST_PROMPT: Final = 10_000  # characters
MOST_IMAGES: Final = 64


@dataclass(frozen=True)
class Limits:
    """Characters of a prompt, images of a request, and bytes of its body."""

    prompt: int = 1000
    images: int = 16

    @property
    def body(self) -> int:
        """Bytes of a body: a prompt's longest form in JSON is 12 per character (two escaped surrogates)."""
        return 12 * self.prompt + 1024
