"""What became of everything that a source holds: images, counted failures, counted skips.

    source.json    what the driver found in the source, what of it describes images, and what was skipped

A *failure* was to be an image, has a row in its shard's table, and counts against ``min_yield``. A *skip* was not to be
one (a file of another kind, a link out of the folder); it has no row, but a cause, a number and a first example.
"""

import collections
from collections.abc import Iterable, Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from stages.contract.documents import Document
from stages.contract.errors import FailureCause
from stages.contract.parsing import shown

_KINDS_SHOWN = 8


class Counted(BaseModel):
    """How many entries of one cause there are, the first of them, and how many there are of each kind, if any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int
    example: str
    kinds: Mapping[str, int] = {}

    def __str__(self) -> str:
        """Return it in words."""
        kinds = sorted(self.kinds.items(), key=lambda one: (-one[1], one[0]))
        words = [f"{kind} {count}" for kind, count in kinds[:_KINDS_SHOWN]]
        words += [f"{len(kinds) - _KINDS_SHOWN} more kinds"] if len(kinds) > _KINDS_SHOWN else []
        return f"{self.count} ({', '.join(words)}{'; ' if words else ''}first: {self.example})"


class Counter:
    """Counts entries by cause as they are met, in the order of the source."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._kinds: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._examples: dict[str, str] = {}

    def add(self, cause: FailureCause, name: str, kind: str = "") -> None:
        """Count an entry; its name is kept as a message may show it."""
        self._counts[cause] += 1
        self._examples.setdefault(cause, shown(name))
        if kind:
            self._kinds[cause][shown(kind, 20)] += 1

    @property
    def counted(self) -> dict[str, Counted]:
        """What was counted, by cause, sorted."""
        return {
            str(cause): Counted(
                count=count, example=self._examples[cause], kinds=dict(sorted(self._kinds[cause].items()))
            )
            for cause, count in sorted(self._counts.items())
        }


def add_up(found: Iterable[Mapping[str, Counted]]) -> dict[str, Counted]:
    """Add up counts by cause; the first example is that of the first."""
    by_cause: dict[str, list[Counted]] = collections.defaultdict(list)
    for counted in found:
        for cause, one in counted.items():
            by_cause[cause].append(one)
    sums = {}
    for cause, several in sorted(by_cause.items()):
        kinds = sum((collections.Counter(one.kinds) for one in several), collections.Counter[str]())
        count = sum(one.count for one in several)
        sums[cause] = Counted(count=count, example=several[0].example, kinds=dict(sorted(kinds.items())))
    return sums


def in_words(counted: Mapping[str, Counted]) -> str:
    """Return counts by cause on one line."""
    return ", ".join(f"{cause}: {one}" for cause, one in counted.items())


class SourceRecord(Document):
    """What the driver found before any shard was made."""

    file: ClassVar[str] = "source.json"

    found: int | None = None
    """Everything that is there: rows of lists, files of folders; none: known only where a shard is read."""
    used: Mapping[str, int] = {}
    """Files that describe images and are none, by what they are: captions, metadata."""
    skips: Mapping[str, Counted] = {}
    failures: Mapping[str, Counted] = {}
    """Entries that were known to be lost before any was read; they are among the shards' failures."""
    missing_files: int = 0
    """Files of a dataset that were not there, and of whose entries nothing is known."""
