"""The keys that a sweep sets: each holds to the end, as variants are labelled by them and compared."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import UsageError
from stages.contract.texts import one_line, show_value

_LONGEST_KEY = 200  # characters in a message
_LONGEST_INDEX = 9  # digits


def overwritten(later: str, before: Mapping[str, Sequence[Any]]) -> str | None:
    """Return the first dotted key of which setting another one afterwards changes a value; None: there is none."""
    return next((key for key, values in before.items() if any(_changes(later, key, one) for one in values)), None)


def _changes(later: str, key: str, value: Any) -> bool:
    if key == later or key.startswith(f"{later}."):
        return True
    if not later.startswith(f"{key}."):
        return False
    for part in later.removeprefix(f"{key}.").split("."):
        if isinstance(value, Mapping):
            if part not in value:
                return False
            value = value[part]
        elif isinstance(value, list):
            if not part.isdecimal() or len(part) > _LONGEST_INDEX or int(part) >= len(value):
                return False
            value = value[int(part)]
        else:
            return True
    return True


def require_settable(keys: Iterable[str]) -> None:
    """Raise ValueError for a key that no run of a sweep can be given, or not as it is written."""
    for key in keys:
        if key == "name":
            raise ValueError("found the key name, which every run has of its sweep; leave it out")
        if "=" in key:
            raise ValueError(f"found the key {show_value(key)}; expected a dotted key, and no = in it")


def require_kept(part: str, later: Iterable[str], before: Mapping[str, Sequence[Any]], where: str) -> None:
    """Raise ValueError where one of the keys of a part of a sweep would change what is set before it."""
    for key in later:
        if (lost := overwritten(key, before)) is not None:
            raise ValueError(
                f"{part}: {one_line(key, _LONGEST_KEY)} would overwrite {one_line(lost, _LONGEST_KEY)} of {where}, by "
                "which variants are distinguished; set it in one of them alone"
            )


def require_base_keys(overrides: Sequence[str], before: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """Raise UsageError for an override that changes what the sweep sets; ``before`` is that, by its place in the file.

    All else is of the base experiment, and may be overridden for all variants alike.
    """
    for key in (word.partition("=")[0] for word in overrides if "=" in word):
        if key == "name":
            raise UsageError("name: found an override; every run of a sweep has the sweep's name: set it in its file")
        for where, settings in before.items():
            if (lost := overwritten(key, settings)) is not None:
                raise UsageError(
                    f"{one_line(key, _LONGEST_KEY)}: found an override of what {where} sets "
                    f"({one_line(lost, _LONGEST_KEY)}), by which variants are distinguished; change it in the sweep's "
                    "file, or leave out the override"
                )
