"""The latents and codes that encode_latents makes: writer, and reader by key without loading a shard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Int, Shaped

from models.decoders.buckets import BucketSettings, Size, size_name
from stages.contract.documents import Document, UnitRecord
from stages.contract.errors import ArtifactError, InputFault
from stages.formats.per_shard import array_name, load_table, open_array, save_array, save_table
from stages.formats.shards import index_images, shard_tar
from stages.storage.artifact import Artifact, Output, unit_record
from stages.storage.npy_reader import map_npy

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
    buckets: BucketSettings | None = None
    """Which other sizes images have, whose latents are as many pixels to a position; None: all are squares."""

    def shape_of(self, size: Size) -> tuple[int, int, int]:
        """Return channels, rows and columns of the latents of an image of a width and height."""
        channels, rows, columns = self.shape
        return channels, size[1] * rows // self.resolution, size[0] * columns // self.resolution

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Widths and heights of the images."""
        square = (self.resolution, self.resolution)
        return (square,) if self.buckets is None else self.buckets.sizes(self.resolution)


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
        self.write_arrays(name, output, encoder, (encoder.resolution, encoder.resolution))
        save_table(output, "metadata", name, pa.table({"key": pa.array(self.keys, pa.string())}))

    def write_arrays(self, name: str, output: Output, encoder: EncoderIdentity, size: Size) -> None:
        """Write latents and codes of images of a size."""
        shape = encoder.shape_of(size)
        save_array(output, "latents", name, np.concatenate([np.zeros((0, *shape), np.float16), *self.latents]))
        if encoder.num_codes is not None:
            save_array(output, "codes", name, np.concatenate([np.zeros((0, *shape[1:]), np.int32), *self.codes]))


def write_buckets(found: Mapping[int, ShardLatents], name: str, output: Output, encoder: EncoderIdentity) -> None:
    """Write the files of a shard whose images are encoded by bucket: arrays of each bucket that has some images.

    The table says the bucket of each image, and its row in the bucket's arrays.
    """
    keys: list[str] = []
    buckets: list[int] = []
    rows: list[int] = []
    for bucket, shard in sorted(found.items()):
        size = encoder.sizes[bucket]
        shard.write_arrays(bucket_name(name, size), output, encoder, size)
        keys += shard.keys
        buckets += [bucket] * len(shard.keys)
        rows += range(len(shard.keys))
    columns = {"key": pa.array(keys, pa.string()), "bucket": pa.array(buckets, pa.uint8())}
    save_table(output, "metadata", name, pa.table(columns | {"row": pa.array(rows, pa.int32())}))


def read_buckets(artifact: Artifact, shard: str, keys: Sequence[str]) -> Int[np.ndarray, " rows"]:
    """Return the number of the bucket of each image of a shard, by key."""
    table = load_table(artifact, "metadata", shard, ["key", "bucket"])
    bucket_of = dict(zip(table["key"].to_pylist(), table["bucket"].to_pylist(), strict=True))
    try:
        return np.array([bucket_of[key] for key in keys], dtype=np.int64)
    except KeyError as error:
        raise _lacks(artifact, shard, "latents", error.args[0]) from None


def bucket_name(shard: str, size: Size) -> str:
    """Return the name of the arrays of a shard's bucket, which stands in a shard's place."""
    return f"{shard}_{size_name(size)}"


def take_part(source: Artifact, unit: str, shards: Artifact, output: Output, name: str) -> LatentsRecord | None:
    """Write the latents of a shard whose images are some of those of an earlier artifact's unit.

    None: not all of its images have latents there, and it is not known by key what became of them.
    """
    if EncoderIdentity.of(source).buckets is not None:
        return _take_buckets(source, unit, shards, output, name)
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
    """Latents [channel, row, column] in half precision, or codes [row, column], by (shard, key), still on disk.

    Rows that are read together are of one bucket, where there are buckets.
    """

    def __init__(self, artifact: Artifact, kind: Kind) -> None:
        """Read no latents yet; the keys of the shards last used are kept in memory."""
        self._artifact, self._kind, self._sizes = artifact, kind, EncoderIdentity.of(artifact).sizes
        self._shard = lru_cache(maxsize=KEPT_SHARDS)(self._open)
        self._array = lru_cache(maxsize=KEPT_SHARDS)(self._open_array)

    def read(self, indices: Sequence[tuple[str, str]]) -> Shaped[np.ndarray, "rows ..."]:
        """Return the rows at the (shard, key) indices, in their order."""
        return np.stack([self._one(shard, key) for shard, key in indices])

    def _one(self, shard: str, key: str) -> Shaped[np.ndarray, "..."]:
        row_of = self._shard(shard)
        if key not in row_of:
            raise _lacks(self._artifact, shard, self._kind, key)
        bucket, row = row_of[key]
        found: np.ndarray = self._array(shard, bucket)[row]
        return found

    def _open(self, shard: str) -> dict[str, tuple[int, int]]:
        """Return bucket and row of each key; without buckets, all are of the bucket 0."""
        has_buckets = len(self._sizes) > 1
        table = load_table(self._artifact, "metadata", shard, ["key", *(("bucket", "row") if has_buckets else ())])
        keys = table["key"].to_pylist()
        if not has_buckets:
            return {key: (0, row) for row, key in enumerate(keys)}
        return dict(zip(keys, zip(table["bucket"].to_pylist(), table["row"].to_pylist(), strict=True), strict=True))

    def _open_array(self, shard: str, bucket: int) -> np.ndarray:
        if len(self._sizes) == 1:
            return open_array(self._artifact, self._kind, shard)
        return open_bucket(self._artifact, self._kind, shard, self._sizes[bucket])


def open_bucket(artifact: Artifact, kind: Kind, shard: str, size: Size) -> np.ndarray:
    """Return the latents or codes of a shard's bucket, still on disk."""
    return map_npy(artifact.local(array_name(kind, bucket_name(shard, size)), record=unit_record(shard)))


def _take_buckets(source: Artifact, unit: str, shards: Artifact, output: Output, name: str) -> LatentsRecord | None:
    """Do as :func:`take_part` for an artifact with buckets."""
    encoder = EncoderIdentity.of(source)
    record = LatentsRecord.parse(source.read_json(unit_record(unit)), source, unit_record(unit))
    table = load_table(source, "metadata", unit).to_pylist()
    known = {row["key"]: (row["bucket"], row["row"]) for row in table}
    keys = list(index_images(shard_tar(shards, name)))
    if record.failures or not known.keys() >= set(keys):
        return None
    found: dict[int, ShardLatents] = {}
    for bucket in sorted({known[key][0] for key in keys}):
        size, own = encoder.sizes[bucket], [key for key in keys if known[key][0] == bucket]
        rows = [known[key][1] for key in own]
        shard = found[bucket] = ShardLatents(own, [open_bucket(source, "latents", unit, size)[rows]])
        if encoder.num_codes is not None:
            shard.codes.append(open_bucket(source, "codes", unit, size)[rows])
    write_buckets(found, name, output, encoder)
    values = [part.astype(np.float64) for shard in found.values() for part in shard.latents]
    return LatentsRecord(
        rows=len(keys),
        failures={},
        numbers=sum(part.size for part in values),
        sum=float(sum(part.sum() for part in values)),
        squares=float(sum((part**2).sum() for part in values)),
    )


def _lacks(artifact: Artifact, shard: str, kind: Kind, key: str) -> InputFault:
    return InputFault(
        f"encode_latents: shard {shard} has no {kind} of key {key!r} ({artifact.uri}): expected those of every "
        "embedded image: run encode_latents anew on the shards of this run"
    )
