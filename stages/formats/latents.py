"""The latents and codes that encode_latents makes: writer, and reader by key without loading a shard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped

from stages.contract.documents import Document, UnitRecord
from stages.contract.errors import ArtifactError, InputFault
from stages.formats.per_shard import array_name, load_table, open_array, save_array, save_table
from stages.formats.shards import index_images, shard_tar
from stages.storage.artifact import Artifact, Output, unit_record

KEPT_SHARDS = 256
Kind = Literal["latents", "codes"]


class LatentsRecord(UnitRecord):
    """The record of an encoded shard, with what mean and standard deviation of all latents are computed from."""

    counted: ClassVar[Mapping[str, str]] = {"images": "rows"}

    rows: int
    failures: Mapping[str, int]
    numbers: int
    sum: float
    squares: float


class EncoderWeights(Document):
    """Which autoencoder it is."""

    reference: str
    digest: str
    """SHA-256 of the weights."""

    def __str__(self) -> str:
        """Return the reference and the beginning of the digest."""
        return f"{self.reference} ({self.digest[:8]})"


class EncoderIdentity(Document):
    """What an encoder makes, of which images."""

    file = "encoder.json"

    resolution: int
    """Side of the images in pixels."""
    shape: tuple[int, int, int]
    """Channels, rows and columns."""
    num_codes: int | None
    """Size of the codebook, where there are codes beside the latents."""
    scale_factor: float | None
    """The factor and shift that models of these latents were trained with; None: to be measured."""
    shift: float
    encoder: EncoderWeights


class LatentsIdentity(EncoderIdentity):
    """What the latents are, and how a diffusion model is to scale them: x_0 = scale_factor * (z - shift)."""

    file = "latents.json"

    kind: str
    """autoencoder or stable_diffusion."""
    scale_factor: float
    """Of kind autoencoder: 1 / standard deviation of all latents; of kind stable_diffusion: the checkpoint's own."""
    mean: float
    """Measured over all latents, as is the standard deviation."""
    std: float


def record_encoder(output: Output, encoder: EncoderIdentity) -> None:
    """Write the encoder before the first latent, or compare it with that of the latents that are there."""
    if not output.exists(encoder.file):
        encoder.write(output)
        return
    recorded = EncoderIdentity.of(output)
    if recorded.encoder.digest != encoder.encoder.digest:
        raise ArtifactError(
            f"encode_latents: {output.uri} holds latents of {recorded.encoder}, but the configured autoencoder now "
            f"is {encoder.encoder}: the weights behind the name have changed: delete the folder and run again"
        )


@dataclass
class ShardLatents:
    """What becomes of a shard, in the order of its keys."""

    keys: list[str] = field(default_factory=list)
    latents: list[Shaped[np.ndarray, "batch channel row column"]] = field(default_factory=list)
    codes: list[Shaped[np.ndarray, "batch row column"]] = field(default_factory=list)
    total: float = 0.0
    squares: float = 0.0

    def write(self, name: str, output: Output, encoder: EncoderIdentity) -> None:
        """Write the files of the shard."""
        empty = np.zeros((0, *encoder.shape), np.float16)
        save_array(output, "latents", name, np.concatenate([empty, *self.latents]))
        if encoder.num_codes is not None:
            none = np.zeros((0, *encoder.shape[1:]), np.int32)
            save_array(output, "codes", name, np.concatenate([none, *self.codes]))
        save_table(output, "metadata", name, pa.table({"key": pa.array(self.keys, pa.string())}))


def take_part(source: Artifact, unit: str, shards: Artifact, output: Output, name: str) -> LatentsRecord | None:
    """Write the latents of a shard whose images are some of those of an earlier artifact's unit.

    None: not all of its images have latents there, and it is not known by key what became of them.
    """
    record = LatentsRecord.parse(source.read_json(unit_record(unit)), source, unit_record(unit))
    known = {key: row for row, key in enumerate(load_table(source, "metadata", unit, ["key"])["key"].to_pylist())}
    keys = list(index_images(shard_tar(shards, name)))
    if record.failures or not known.keys() >= set(keys):
        return None
    rows = [known[key] for key in keys]
    latents = open_array(source, "latents", unit)[rows]
    save_array(output, "latents", name, latents)
    if source.exists(array_name("codes", unit)):
        save_array(output, "codes", name, open_array(source, "codes", unit)[rows])
    save_table(output, "metadata", name, pa.table({"key": pa.array(keys, pa.string())}))
    values = latents.astype(np.float64)
    return LatentsRecord(
        rows=len(keys), failures={}, numbers=latents.size, sum=float(values.sum()), squares=float((values**2).sum())
    )


class LatentRows:
    """Latents [channel, row, column] in half precision, or codes [row, column], by (shard, key), still on disk."""

    def __init__(self, artifact: Artifact, kind: Kind) -> None:
        """Read nothing yet; the keys of the shards last used are kept in memory."""
        self._artifact, self._kind = artifact, kind
        self._shard = lru_cache(maxsize=KEPT_SHARDS)(self._open)

    def read(self, indices: Sequence[tuple[str, str]]) -> Shaped[np.ndarray, "rows ..."]:
        """Return the rows at the (shard, key) indices, in their order."""
        return np.stack([self._one(shard, key) for shard, key in indices])

    def _one(self, shard: str, key: str) -> Shaped[np.ndarray, "..."]:
        rows, row_of = self._shard(shard)
        if key not in row_of:
            raise InputFault(
                f"encode_latents: shard {shard} has no {self._kind} of key {key!r} ({self._artifact.uri}): expected "
                "those of every embedded image: run encode_latents anew on the shards of this run"
            )
        found: np.ndarray = rows[row_of[key]]
        return found

    def _open(self, shard: str) -> tuple[np.ndarray, dict[str, int]]:
        keys = load_table(self._artifact, "metadata", shard, ["key"])["key"].to_pylist()
        return open_array(self._artifact, self._kind, shard), {key: row for row, key in enumerate(keys)}
