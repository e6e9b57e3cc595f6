"""Files of a Hugging Face dataset that others of its files, or its README.md, promise and that are not there."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from stages.contract.parsing import shown
from stages.download_shards.sources.dataset_patterns import HAS_WILDCARD, matches

NUMBERED = re.compile(r"(.*?)-(\d{5})-of-(\d{5})(-[0-9a-f]+)?")
"""The stem of a file that is one of several: its name, its number, how many there are, and a hash."""
_MOST_NAMES = 5  # in a message


@dataclass(frozen=True)
class Missing:
    """Files that are not there."""

    count: int = 0
    first: tuple[str, ...] = ()
    """The names of the first of them; the hash that may end a name is not known."""

    @classmethod
    def of(cls, names: Sequence[str]) -> "Missing":
        """Return these files."""
        return cls(len(names), tuple(names[:_MOST_NAMES]))

    def __str__(self) -> str:
        """Return the names in words."""
        more = [f"and {self.count - len(self.first)} more"] if self.count > len(self.first) else []
        return ", ".join([*(shown(name, 100) for name in self.first), *more])


def missing_files(names: Iterable[str], declared: Sequence[str] | None, suffixes: tuple[str, ...]) -> Missing:
    """Return the files that belong to these and are not there: numbers left out of -00000-of-00004, and listed names.

    ``names`` are the paths of files in the folder, ``suffixes`` theirs, and ``declared`` the patterns of README.md that
    chose them, if any: a number that no pattern matches is left out on purpose.
    """
    found = sorted(names)
    listed = [name for name in declared or () if name.lower().endswith(suffixes) and not HAS_WILDCARD.search(name)]
    listed = [name for name in listed if name not in found]
    numbered = (name for name in _unnumbered(found) if declared is None or matches(name, declared))
    count, first = 0, list[str]()
    for name in (*listed, *(name for name in numbered if name not in listed)):
        count += 1
        first += [name] if len(first) < _MOST_NAMES else []
    return Missing(count, tuple(first))


def _unnumbered(names: Iterable[str]) -> Iterator[str]:
    """Yield the names, without a hash, of numbers that are not there."""
    numbers: dict[tuple[PurePosixPath, str, str], set[int]] = {}
    for name in map(PurePosixPath, names):
        if (match := NUMBERED.fullmatch(name.stem)) is not None:
            prefix = name.parent / f"{match[1]}-"
            numbers.setdefault((prefix, match[3], name.suffix), set()).add(int(match[2]))
    for (prefix, total, suffix), there in numbers.items():
        for number in range(int(total)):
            if number not in there:
                yield f"{prefix}{number:05d}-of-{total}{suffix}"
