"""The patterns by which the head of a dataset's README.md says which files are whose, matched as fsspec's globs are.

``*``, ``?`` and ``[…]`` stay within one part of a path, and ``**``, which is a whole part, stands for any number of
parts, also for none. The regular expression that fsspec makes of a pattern takes for ever on some names; part by part,
as here, no pattern does.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

_ANY = "**"
HAS_WILDCARD = re.compile(r"[*?[]")


def pattern_below(folder: str, pattern: str) -> str:
    """Return a pattern as one of paths in the dataset's folder; it counts from ``folder``, which may be "".

    Raises:
        ValueError: it has two asterisks in a part of a path that has other characters too.
    """
    path = PurePosixPath(folder) / pattern
    if any(_ANY in part and part != _ANY for part in path.parts):
        raise ValueError(f"pattern {pattern!r}: ** is allowed as a whole part of a path, as in data/**/*.parquet")
    return str(path)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether the path of a file in the folder matches one of the patterns."""
    parts = name.split("/")
    return any(_matches(parts, pattern.split("/")) for pattern in patterns)


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    ends = {0}  # how many parts the patterns until here may have taken
    for index, pattern in enumerate(wanted):
        if not ends:
            return False
        if pattern != _ANY:
            ends = {end + 1 for end in ends if end < len(parts) and fnmatchcase(parts[end], pattern)}
        elif index < len(wanted) - 1:
            ends = set(range(min(ends), len(parts)))
        else:  # at the end it takes the file's name, at least
            ends = set(range(min(ends) + 1, len(parts) + 1))
    return len(parts) in ends
