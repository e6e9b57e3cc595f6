"""JSON documents of artifacts as frozen models, which refuse what they do not know; and the manifest."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.contract.errors import ArtifactError
from stages.contract.stage import StageSummary
from stages.storage.artifact import MANIFEST, Artifact, Output


class Document(BaseModel):
    """Base of all documents; a field that has its default value is left out of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, content: Any, artifact: Artifact, name: str) -> Self:
        """Return the content of the artifact's file ``name`` as this type."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ArtifactError(
                f"{artifact.stage}: {artifact.path(name)}: {found}: expected the fields {', '.join(cls.model_fields)}: "
                f"another version wrote this file: delete {artifact.uri} and run again"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return self.model_dump(mode="json", exclude_defaults=True)


class Manifest(Document):
    """The manifest of a finished artifact: what made it, from what, and what came out."""

    stage: str
    fingerprint: str
    code_version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    summary: StageSummary

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """Read an artifact's manifest."""
        return cls.parse(artifact.read_json(MANIFEST), artifact, MANIFEST)

    def write(self, output: Output) -> None:
        """Write it."""
        content = {name: getattr(self, name) for name in type(self).model_fields}
        output.write_json(MANIFEST, content | {"summary": asdict(self.summary)})
