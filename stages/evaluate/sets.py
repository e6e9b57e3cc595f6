"""The sets of images of one evaluation, and what its units left of them in the artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.evaluate.config import EvaluateConfig
from stages.evaluate.records import (
    GENERATED,
    TRUE,
    EvaluatedUnit,
    EvaluateRecord,
    FeatureRows,
    merged_content,
)
from stages.formats.generated_images import GeneratedUnit
from stages.storage.artifact import Artifact, Output

_DIGEST_LENGTH = 16


@dataclass(frozen=True)
class EvaluatedSets:
    """Everything that units of one evaluation left; ``units`` has those of each set, the main one first."""

    config: EvaluateConfig
    generated: Artifact
    output: Output
    records: Mapping[str, EvaluateRecord]
    units: Mapping[str, Sequence[GeneratedUnit]]
    real: Sequence[EvaluatedUnit]

    @property
    def main(self) -> str:
        """The set that most figures are of."""
        return next(iter(self.units))

    def evaluated(self, name: str) -> list[EvaluatedUnit]:
        """Return the units of a set, as their features and scores are read."""
        return [EvaluatedUnit(unit.name, unit.count) for unit in self.units[name]]

    def count(self, name: str) -> int:
        """Return how many images a set has."""
        return sum(unit.count for unit in self.units[name])

    def network(self, name: str) -> dict[str, str]:
        """Return name, weights' digest and resizing of a network, as protocols hold them."""
        identity = next(iter(self.records.values())).networks[name]
        return {"name": identity.name, "weights": identity.digest, "resize": identity.resize}

    def block_dims(self, name: str) -> tuple[int, ...]:
        """Return the widths of a network's concatenated embeddings."""
        return next(iter(self.records.values())).networks[name].block_dims

    def has_true(self) -> bool:
        """Whether the prompts of the main set describe or name a true image each."""
        return all(self.records[unit.name].has_true for unit in self.units[self.main])

    def described_images(self) -> str:
        """Return which images the prompts of the main set describe, as protocols hold it."""
        return f"those that the prompts describe, {self._content(self.units[self.main])}"

    def true_images(self) -> str:
        """Return which images are the true ones, as protocols hold it: those of :meth:`true_rows`."""
        return f"folder {self._content(self.real)}" if self.real else self.described_images()

    def _content(self, units: Sequence[GeneratedUnit | EvaluatedUnit]) -> str:
        return merged_content(self.records[unit.name] for unit in units)[:_DIGEST_LENGTH]

    def rows(self, network: str, name: str) -> FeatureRows:
        """Return a network's features of a set's images."""
        return FeatureRows(self.output, self.evaluated(name), f"{network}_{GENERATED}")

    def described_rows(self, network: str) -> FeatureRows:
        """Return a network's features of the true images that the prompts of the main set describe."""
        return FeatureRows(self.output, self.evaluated(self.main), f"{network}_{TRUE}")

    def true_rows(self, network: str) -> FeatureRows:
        """Return those of the configured folder, or of what the prompts describe."""
        return FeatureRows(self.output, self.real, f"{network}_{TRUE}") if self.real else self.described_rows(network)
