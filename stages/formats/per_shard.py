"""Files of which there is one for each shard, laid out as embedding-reader has them: <kind>/<kind>_<shard>.npy."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.contract.errors import ArtifactError
from stages.contract.parsing import parsing
from stages.storage.artifact import Artifact, Output, unit_record
from stages.storage.npy_reader import NpyReader, map_npy


def save_array(output: Output, kind: str, shard: str, values: np.ndarray) -> None:
    """Write an array."""
    with output.writing(array_name(kind, shard)) as path, path.open("wb") as file:
        np.save(file, values)


def open_array(artifact: Artifact, kind: str, shard: str) -> np.ndarray:
    """Return an array, still on disk."""
    return map_npy(artifact.local(array_name(kind, shard), record=unit_record(shard)))


def array_reader(artifact: Artifact, kind: str, shard: str) -> NpyReader:
    """Return a reader of the array's rows."""
    return NpyReader.of(artifact.local(array_name(kind, shard), record=unit_record(shard)))


def save_table(output: Output, kind: str, shard: str, table: pa.Table) -> None:
    """Write a table."""
    with output.writing(table_name(kind, shard)) as path:
        pq.write_table(table, path)


def has_table(artifact: Artifact, kind: str, shard: str) -> bool:
    """Tell whether the table is there."""
    return artifact.exists(table_name(kind, shard))


def load_table(artifact: Artifact, kind: str, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table, or some columns of it."""
    path = artifact.local(table_name(kind, shard), record=unit_record(shard))
    with parsing_table(artifact, table_name(kind, shard)):
        return pq.read_table(path, columns=columns)


def table_schema(artifact: Artifact, kind: str, shard: str) -> pa.Schema:
    """Return a table's schema."""
    path = artifact.local(table_name(kind, shard), record=unit_record(shard))
    with parsing_table(artifact, table_name(kind, shard)):
        return pq.read_schema(path)


@contextlib.contextmanager
def parsing_table(artifact: Artifact, name: str) -> Iterator[None]:
    """Raise what pyarrow says of a file as ArtifactError: one without a checksum was compared with none."""

    def unreadable(reason: str) -> ArtifactError:
        return ArtifactError(
            f"{artifact.stage}: {artifact.path(name)}: found no table ({reason}): expected a parquet file: delete "
            f"{artifact.uri} and run again"
        )

    with parsing(unreadable):
        yield


def array_name(kind: str, shard: str) -> str:
    """Return the name of the array's file in the artifact."""
    return f"{kind}/{kind}_{shard}.npy"


def table_name(kind: str, shard: str) -> str:
    """Return the name of the table's file in the artifact."""
    return f"{kind}/{kind}_{shard}.parquet"
