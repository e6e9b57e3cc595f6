"""The manifest of an artifact, manifest.json: what made it, from what, and what came out."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

from stages.contract.stage import StageSummary
from stages.formats.documents import Document
from stages.storage.artifact import MANIFEST, Artifact, Output


class Manifest(Document):
    """What is known of a finished artifact."""

    stage: str
    fingerprint: str
    code_version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    summary: StageSummary

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """Read an artifact's manifest.

        Raises:
            ArtifactError: there is none, or it is not of this version.
        """
        return cls.parse(artifact.read_json(MANIFEST), artifact, MANIFEST)

    def write(self, output: Output) -> None:
        """Write it."""
        content = {name: getattr(self, name) for name in type(self).model_fields}
        output.write_json(MANIFEST, content | {"summary": asdict(self.summary)})
