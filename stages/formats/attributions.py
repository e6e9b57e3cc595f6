"""Whose work an artifact holds, and under which licence: ``attributions.json``, which travels with the artifact.

Whoever shows images of the artifact, or what was made from them, shows its lines beside them.
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from stages.contract.documents import Document
from stages.storage.artifact import Artifact


class Attribution(BaseModel):
    """One work that others made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    work: str
    author: str
    license: str
    license_url: str
    source: str
    """Where it was had from: package and version."""
    changes: str = ""
    """What was changed, where the licence asks for that to be said."""

    def __str__(self) -> str:
        """Return it on one line."""
        changes = f"; {self.changes}" if self.changes else ""
        return f"{self.work} by {self.author}, {self.license} ({self.license_url}), from {self.source}{changes}"


class Attributions(Document):
    """All works of an artifact."""

    file: ClassVar[str] = "attributions.json"

    works: tuple[Attribution, ...] = ()


def read_attributions(artifact: Artifact) -> Attributions:
    """Return the works of an artifact; none where it has no such file."""
    return Attributions.of(artifact) if artifact.exists(Attributions.file) else Attributions()
