"""The split of an experiment's images, as plans, comparisons and reports show it."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.captions import format_fraction
from stages.formats.splits import SplitConfig


def split_of(identity: Mapping[str, Any]) -> SplitConfig | None:
    """Return the split that a stage of this identity keeps to; None: it keeps to none, or none is known."""
    found = identity.get("split")
    try:
        return SplitConfig.model_validate(found) if isinstance(found, Mapping) else None
    except ValidationError:  # of another version
        return None


def format_split(split: SplitConfig) -> str:
    """Return a split as a line of text."""
    parts = {"train": 1 - split.validation - split.test, "validation": split.validation, "test": split.test}
    shown = ", ".join(f"{name} {format_fraction(fraction)}" for name, fraction in parts.items())
    return f"{shown} (seed {split.seed}, by the keys of the images)"


def may_have_seen(trained: Mapping[str, Any], validated: Mapping[str, Any]) -> bool:
    """Tell whether a stage of the first identity may have trained on what one of the second validates or tests on.

    Images are put aside by one number each, so a larger part that is chosen by the same seed holds a smaller one.
    """
    first, second = split_of(trained), split_of(validated)
    if first is None or second is None:
        return True
    return first.seed != second.seed or first.validation + first.test < second.validation + second.test
