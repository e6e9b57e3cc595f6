"""The records of finished units of work, and their sums."""

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from stages.contract.documents import Document
from stages.storage.artifact import UNITS, Artifact, Output


class UnitRecord(Document):
    """What a finished unit of work says of itself; ``units/<unit>.json``."""

    cause_prefix: ClassVar[str] = "failed"

    @classmethod
    def done(cls, artifact: Artifact) -> dict[str, Self]:
        """Return the records of all finished units by name."""
        found = artifact.done_units()
        return {name: cls.parse(record, artifact, f"{UNITS}/{name}.json") for name, record in found.items()}

    def finish(self, output: Output, unit: str) -> None:
        """Record the unit as done, after its files are written."""
        output.finish_unit(unit, self.to_json())

    @property
    def counts(self) -> Mapping[str, int]:
        """What is added up over all units; ``images`` is among it."""
        raise NotImplementedError(f"{type(self).__name__} must say what it counts")

    @property
    def causes(self) -> Mapping[str, int]:
        """How many entries were lost by cause."""
        return {}


@dataclass(frozen=True)
class Totals:
    """The sums over unit records."""

    counts: Mapping[str, int]
    causes: Mapping[str, int]
    prefix: str = UnitRecord.cause_prefix

    @classmethod
    def of(cls, records: Iterable[UnitRecord]) -> "Totals":
        """Add the records up; causes come sorted by name."""
        counts: collections.Counter[str] = collections.Counter()
        causes: collections.Counter[str] = collections.Counter()
        prefix = UnitRecord.cause_prefix
        for record in records:
            counts.update(record.counts)
            causes.update(record.causes)
            prefix = record.cause_prefix
        return cls(dict(counts), dict(sorted(causes.items())), prefix)

    @property
    def images(self) -> int:
        """How many images there are."""
        return self.counts.get("images", 0)

    @property
    def named(self) -> dict[str, int]:
        """All counts; those by cause with their prefix."""
        return {**self.counts, **{f"{self.prefix}_{cause}": count for cause, count in self.causes.items()}}
