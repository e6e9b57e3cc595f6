"""JSON documents of artifacts as frozen models, which refuse what they do not know: manifest, records of units."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.contract.errors import ArtifactError
from stages.contract.parsing import shown
from stages.contract.stage import StageSummary
from stages.storage.artifact import MANIFEST, UNITS, Artifact, Output

_FAULTS_SHOWN = 5


def describe_faults(error: ValidationError) -> str:
    """Return what is wrong with a document: key and fault of the first ones."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    found = [f"{shown('.'.join(map(str, one['loc'])))}: {shown(one['msg'])}" for one in faults[:_FAULTS_SHOWN]]
    more = len(faults) - len(found)
    return "; ".join([*found, *([f"and {more} more"] if more else [])])


class Document(BaseModel):
    """Base of all documents; a field that has its default value is left out of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: ClassVar[str] = ""
    """Its name in an artifact, for :meth:`of` and :meth:`write`."""

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """Read the artifact's document."""
        return cls.parse(artifact.read_json(cls.file), artifact, cls.file)

    def write(self, output: Output) -> None:
        """Write it."""
        output.write_json(self.file, self.to_json())

    @classmethod
    def parse(cls, content: Any, artifact: Artifact, name: str) -> Self:
        """Return the content of the artifact's file ``name`` as this type."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            found = describe_faults(error)
            raise ArtifactError(
                f"{artifact.stage}: {artifact.path(name)}: {found}: expected the fields {', '.join(cls._fields())}: "
                f"another version wrote this file: delete {artifact.uri} and run again"
            ) from error

    @classmethod
    def _fields(cls) -> list[str]:
        """Return the names of its fields, those that all of its kind have last."""
        return sorted(cls.model_fields, key=lambda name: name not in cls.__annotations__)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return self.model_dump(mode="json", exclude_defaults=True)


class Manifest(Document):
    """The manifest of a finished artifact: what made it, from what, and what came out."""

    file = MANIFEST

    stage: str
    fingerprint: str
    code_version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    summary: StageSummary

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        content = {name: getattr(self, name) for name in type(self).model_fields}
        summary = asdict(self.summary)
        for name in ("measures", "protocols"):  # of stages that measure nothing, the document stays as it was
            if not summary[name]:
                del summary[name]
        return content | {"summary": summary}

    def write(self, output: Output) -> None:
        """Write it, with the checksums of the files that belong to no unit."""
        output.finish_artifact(self.to_json())


class UnitRecord(Document):
    """What a finished unit of work says of itself; ``units/<unit>.json``."""

    counted: ClassVar[Mapping[str, str]] = {"images": "images"}
    """The fields to add up over all units, by the names of the sums; ``images`` is among these."""
    lost: ClassVar[str] = "failures"
    """The field that counts what was lost by cause, where there is one."""
    cause_prefix: ClassVar[str] = "failed"

    made_from: str = ""
    """What identifies the content that the unit was made from, where that is known."""

    @classmethod
    def done(cls, artifact: Artifact) -> dict[str, Self]:
        """Return the records of all finished units by name."""
        return cls._parse_all(artifact.done_units(), artifact)

    @classmethod
    def some(cls, artifact: Artifact, units: Sequence[str]) -> dict[str, Self]:
        """Return the records of some finished units by name."""
        return cls._parse_all(artifact.read_units(units), artifact)

    @classmethod
    def _parse_all(cls, found: Mapping[str, Any], artifact: Artifact) -> dict[str, Self]:
        return {name: cls.parse(record, artifact, f"{UNITS}/{name}.json") for name, record in found.items()}

    def finish(self, output: Output, unit: str) -> None:
        """Record the unit as done, after its files are written."""
        output.finish_unit(unit, self.to_json())

    @property
    def counts(self) -> dict[str, int]:
        """What is added up over all units; fields that have their default value are left out."""
        content = self.to_json()
        return {name: content[field] for name, field in self.counted.items() if field in content}


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
            causes.update(getattr(record, record.lost, {}))
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
