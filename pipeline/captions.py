"""Which of the captions each stage of a run reads, people's and pseudo-captions: shown in plans, tables, comparisons,
cards and MLflow.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.record import finite_number


def caption_fraction(identity: Mapping[str, Any]) -> float | None:
    """Return the fraction of the human captions that a stage of this identity may read; None: none, or not known."""
    captions = identity.get("captions")
    return finite_number(captions.get("fraction")) if isinstance(captions, Mapping) else None


def pseudo_weight(identity: Mapping[str, Any]) -> float | None:
    """Return the weight of pseudo-captions for an image that has both kinds, of 1; None: it knows of none."""
    captions = identity.get("captions")
    mix = captions.get("mix") if isinstance(captions, Mapping) else None
    if not isinstance(mix, Mapping):
        return None
    human, pseudo = (finite_number(mix.get(name)) for name in ("human", "pseudo"))
    if human is None or pseudo is None or min(human, pseudo) < 0 or human + pseudo == 0:  # of another version
        return None
    return pseudo / (human + pseudo)


def format_fraction(fraction: float | None) -> str:
    """Return a fraction of the captions for a table; nothing for none."""
    return "" if fraction is None else f"{100 * fraction:.3g}%"


def format_captions(identity: Mapping[str, Any]) -> str:
    """Return which captions a stage of this identity reads, for a table; nothing for none."""
    fraction, weight = format_fraction(caption_fraction(identity)), pseudo_weight(identity)
    if weight is None:
        return fraction
    return f"{fraction} human, " + (f"pseudo mixed in at {format_fraction(weight)}" if weight else "no pseudo-captions")
