"""What a unit of evaluation leaves: rows of features, and scores of single images; read here without holding them all.

scores/scores_<unit>.parquet                of each image: CLIP scores, what the scene checker read, its categories
<network>_<kind>/<network>_<kind>_<unit>.npy   rows of features, of images of kind generated or true
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int, UInt8
from torch.nn import functional

from models.similarity import blocks_of
from stages.contract.documents import Document, UnitRecord
from stages.formats.generated_images import GeneratedUnit, read_unit_embeddings
from stages.formats.per_shard import load_table, open_array, save_array, save_table
from stages.storage.artifact import Artifact, Output

SCORES = "scores"
GENERATED, TRUE = "generated", "true"
REAL = "real"
"""The set of the units of a folder of true images."""


class NetworkIdentity(Document):
    """What tells one network of features from another."""

    name: str
    digest: str
    resize: str
    block_dims: tuple[int, ...]


class EvaluateRecord(UnitRecord):
    """The record of an evaluated unit."""

    images: int
    has_true: bool
    """Whether each image has a true one."""
    has_scenes: bool
    """Whether each prompt describes a scene."""
    content: str = ""
    """Digest of the pixels of the true images (:func:`content_of`); empty: it has none."""
    networks: Mapping[str, NetworkIdentity]
    """Those of the features, by their names in the artifact."""


def content_of(images: UInt8[np.ndarray, "batch height width 3"], first: int) -> str:
    """Return the digest of the pixels of numbered images, the first of which has this number."""
    return _added(
        hashlib.sha256(f"{number} {image.shape} ".encode() + image.tobytes()).hexdigest()
        for number, image in enumerate(images, first)
    )


def merged_content(units: Iterable[EvaluateRecord]) -> str:
    """Return the digest of the true images of units together, however they are cut into units."""
    return _added(unit.content for unit in units)


def _added(digests: Iterable[str]) -> str:
    """Return the sum of digests, which hold the images' numbers: neither their order nor their grouping counts."""
    return f"{sum(int(digest, 16) for digest in digests) % 2**256:064x}"


@dataclass(frozen=True)
class EvaluatedUnit:
    """A unit of an evaluated set: its name, and how many images it holds."""

    name: str
    count: int


def write_features(output: Output, network: str, kind: str, unit: str, rows: Float[np.ndarray, "rows embed"]) -> None:
    """Write the features of a unit's images."""
    save_array(output, f"{network}_{kind}", unit, rows)


def write_scores(output: Output, unit: str, columns: Mapping[str, Sequence[float] | Sequence[int]]) -> None:
    """Write the scores of a unit's images."""
    save_table(output, SCORES, unit, pa.table({name: pa.array(values) for name, values in columns.items()}))


def read_scores(artifact: Artifact, units: Iterable[EvaluatedUnit]) -> dict[str, Float[np.ndarray, " rows"]]:
    """Return the scores of all images of a set, by column."""
    tables = [load_table(artifact, SCORES, unit.name) for unit in units]
    names = tables[0].column_names if tables else []
    return {name: np.concatenate([table[name].to_numpy() for table in tables]) for name in names}


Unit = TypeVar("Unit", bound="Counted")


class Counted(Protocol):
    """A unit of an evaluated or a generated set."""

    @property
    def count(self) -> int:
        """How many images it holds."""


@dataclass(frozen=True)
class Rows(ABC, Generic[Unit]):
    """A row for each image of a set, which stay on disk."""

    artifact: Artifact
    units: Sequence[Unit]

    @abstractmethod
    def read(self, unit: Unit) -> Float[np.ndarray, "rows embed"]:
        """Return the rows of a unit."""

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(unit.count for unit in self.units)

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of the first row of each unit, and its rows."""
        first = 0
        for unit in self.units:
            yield first, self.read(unit)
            first += unit.count

    def take(self, indices: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, "chosen embed"]:
        """Return rows by their numbers, which are in order."""
        parts = []
        for first, rows in self.parts():
            begin, end = np.searchsorted(indices, (first, first + len(rows)))
            parts.append(np.asarray(rows[indices[begin:end] - first]))
        return np.concatenate(parts)


@dataclass(frozen=True)
class FeatureRows(Rows[EvaluatedUnit]):
    """The features of all images of a set."""

    kind: str
    """Network and kind of the images."""

    def read(self, unit: EvaluatedUnit) -> Float[np.ndarray, "rows embed"]:
        """Return the features of a unit."""
        return open_array(self.artifact, self.kind, unit.name)


@dataclass(frozen=True)
class UnitFeatureRows(FeatureRows):
    """Features of CLIP models whose embeddings have length 1 each, as existing ones often have."""

    block_dims: Sequence[int]

    def read(self, unit: EvaluatedUnit) -> Float[np.ndarray, "rows embed"]:
        """Return the features of a unit, each CLIP model's brought to length 1, as ClipEncoder does."""
        blocks = blocks_of(torch.from_numpy(np.array(super().read(unit))), self.block_dims)
        return torch.cat([functional.normalize(block, dim=-1) for block in blocks], dim=-1).numpy()


@dataclass(frozen=True)
class EmbeddingRows(Rows[GeneratedUnit]):
    """The embeddings that all images of a set were generated from."""

    def read(self, unit: GeneratedUnit) -> Float[np.ndarray, "rows embed"]:
        """Return the embeddings of a unit."""
        return read_unit_embeddings(self.artifact, unit)
