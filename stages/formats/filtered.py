"""What filter_samples leaves of the embeddings: row numbers, removed keys and scores of each shard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from stages.contract.documents import Manifest, UnitRecord
from stages.contract.errors import ArtifactError
from stages.formats.per_shard import has_table, load_table, open_array, save_array, save_table, table_name, table_schema
from stages.storage.artifact import Artifact, Output, unit_record

SCORES = "scores"
"""What the filters found for each image of a shard: key, scores, and the cause of its removal, if any."""
_MADE_FROM = b"made_from"
_REMOVED = pa.schema(
    [("key", pa.string()), ("cause", pa.string()), ("value", pa.float64()), ("duplicate_of", pa.string())]
)


class FilterRecord(UnitRecord):
    """The record of a filtered shard."""

    counted: ClassVar[Mapping[str, str]] = {"images": "rows", "captioned": "captioned"}
    lost = cause_prefix = "removed"

    rows: int
    captioned: int
    removed: Mapping[str, int]


@dataclass(frozen=True)
class FilteredEmbeddings(Artifact):
    """The embeddings as all stages after filter_samples read them: without the rows that it removed."""

    kept: Artifact

    def __getstate__(self) -> dict[str, Any]:
        """Leave the file system handles behind."""
        return {**super().__getstate__(), "kept": self.kept}


def filter_inputs(inputs: Mapping[str, Artifact]) -> Mapping[str, Artifact]:
    """Return a stage's inputs with the embeddings filtered, where filter_samples is one of them."""
    if "filter_samples" not in inputs or "embed_clip" not in inputs:
        return inputs
    embeddings, kept = inputs["embed_clip"], inputs["filter_samples"]
    filtered = Manifest.of(kept).inputs["embed_clip"]
    if filtered != embeddings.fingerprint:
        raise ArtifactError(
            f"filter_samples: {kept.uri} says what to keep of embed_clip {filtered}, but the embeddings are "
            f"{embeddings.fingerprint}: expected the same: filter these embeddings (drop reuse.filter_samples)"
        )
    return {**inputs, "embed_clip": FilteredEmbeddings(embeddings.uri, embeddings.stage, embeddings.fingerprint, kept)}


def kept_rows(embeddings: Artifact, shard: str) -> Int[np.ndarray, " rows"] | None:
    """Return which rows of a shard's files are used, ascending; None: all."""
    return open_array(embeddings.kept, "kept", shard) if isinstance(embeddings, FilteredEmbeddings) else None


def save_scores(output: Output, shard: str, table: pa.Table, made_from: str) -> None:
    """Write what the filters found for each image of a shard, and what identifies its embeddings ("": not known)."""
    save_table(output, SCORES, shard, table.replace_schema_metadata({_MADE_FROM: made_from}))


def scores_are_of(output: Output, shard: str, content: str | None) -> bool:
    """Tell whether a shard's scores are there, and of these embeddings; what is not known counts as the same."""
    if not has_table(output, SCORES, shard):
        return False
    made_from = (table_schema(output, SCORES, shard).metadata or {}).get(_MADE_FROM, b"").decode()
    return not (made_from and content and made_from != content)


def write_filtered(
    output: Output, shard: str, kept: Int[np.ndarray, " rows"], removed: Sequence[Mapping[str, Any]]
) -> None:
    """Write the rows to keep and, for each removed key, cause, value and the key of which it is a near-duplicate."""
    save_array(output, "kept", shard, kept)
    save_table(output, "removed", shard, pa.Table.from_pylist(list(removed), schema=_REMOVED))
    output.collect(table_name(SCORES, shard))  # which the first pass wrote


def read_removed(artifact: Artifact, shard: str) -> list[dict[str, Any]]:
    """Return key, cause, value and duplicate_of of each removed image of a shard."""
    rows: list[dict[str, Any]] = load_table(artifact, "removed", shard).to_pylist()
    return rows


def removed_keys(artifact: Artifact, shard: str) -> set[str]:
    """Return the keys of a shard's images that were removed; none of a shard that has no embeddings."""
    if not artifact.exists(unit_record(shard)):
        return set()
    return set(load_table(artifact, "removed", shard, ["key"])["key"].to_pylist())
