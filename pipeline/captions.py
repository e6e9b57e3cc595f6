"""Which of the captions each stage of a run reads: shown in plans, tables, comparisons and MLflow."""

from collections.abc import Mapping
from typing import Any


def caption_fraction(identity: Mapping[str, Any]) -> float | None:
    """Return the fraction of the captions that a stage of this identity may read; None: it reads none."""
    captions = identity.get("captions")
    return float(captions["fraction"]) if isinstance(captions, Mapping) else None


def format_fraction(fraction: float | None) -> str:
    """Return a fraction of the captions for a table; nothing for none."""
    return "" if fraction is None else f"{100 * fraction:.3g}%"
