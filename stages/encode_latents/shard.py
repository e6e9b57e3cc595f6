"""Encode one shard."""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Shaped

from models.decoders.base import from_bytes
from stages.contract.errors import ArtifactError, InputFault
from stages.encode_latents.config import EncodeByAutoencoder, EncodeByStableDiffusion
from stages.encode_latents.encoders import ImageEncoder, make_encoder
from stages.formats.images import RgbImage, decode_image, square
from stages.formats.shards import read_shard
from stages.storage.artifact import Artifact, Output

ENCODER = "encoder.json"
LARGEST = float(np.finfo(np.float16).max)
Record = dict[str, Any]


@dataclass
class ShardRows:
    """What becomes of a shard, in the order of its keys."""

    keys: list[str] = field(default_factory=list)
    latents: list[Shaped[np.ndarray, "batch channel row column"]] = field(default_factory=list)
    codes: list[Shaped[np.ndarray, "batch row column"]] = field(default_factory=list)
    total: float = 0.0
    squares: float = 0.0


def make_encode_worker(
    config: EncodeByAutoencoder | EncodeByStableDiffusion, inputs: Mapping[str, Artifact], output: Output, device: str
) -> Callable[[str], tuple[str, Record]]:
    """Load the encoder and return the function that encodes the shard of a name."""
    encoder = make_encoder(config, inputs, device)
    _record_encoder(encoder, output)
    half = device != "cpu" and config.gpu_precision != "float32"
    dtype = getattr(torch, config.gpu_precision)

    def encode(name: str) -> tuple[str, Record]:
        failures: collections.Counter[str] = collections.Counter()
        samples = _images(inputs["download_shards"], name, encoder.about.resolution, failures)
        with torch.inference_mode(), torch.autocast(device, dtype=dtype, enabled=half):
            rows = _encode(samples, encoder, batch_size=config.batch_size, device=device, shard=name)
        _publish(name, rows, encoder, output)
        sums = {
            "sum": rows.total,
            "squares": rows.squares,
            "numbers": len(rows.keys) * int(np.prod(encoder.about.shape)),
        }
        record = {"rows": len(rows.keys), **sums, "failures": dict(sorted(failures.items()))}
        output.finish_unit(name, record)
        return name, record

    return encode


def _record_encoder(encoder: ImageEncoder, output: Output) -> None:
    """Write what encodes before the first latent, or compare it with what did.

    Raises:
        ArtifactError: the latents already there are of other weights.
    """
    found = asdict(encoder.about)
    if not output.exists(ENCODER):
        output.write_json(ENCODER, found)
        return
    recorded = output.read_json(ENCODER)
    if recorded["encoder"]["digest"] != found["encoder"]["digest"]:
        raise ArtifactError(
            f"encode_latents: {output.uri} holds latents of {recorded['encoder']}, but the configured autoencoder now "
            f"is {found['encoder']}: the weights behind the name have changed: delete the folder and run again"
        )


def _images(
    shards: Artifact, name: str, resolution: int, failures: collections.Counter[str]
) -> Iterator[tuple[str, RgbImage]]:
    """Yield keys and square images of a shard; count those that cannot be read by cause."""
    for sample in read_shard(shards.local(f"shards/{name}.tar"), with_captions=False):
        if sample.image is None:
            failures["no_image"] += 1
            continue
        try:
            where = f"shard {name}, key {sample.key!r}"
            image = decode_image(sample.image, where=where, smallest_side=resolution)
        except InputFault:
            failures["corrupt_image"] += 1
            continue
        yield sample.key, square(image, resolution)


def _encode(
    samples: Iterator[tuple[str, RgbImage]], encoder: ImageEncoder, *, batch_size: int, device: str, shard: str
) -> ShardRows:
    rows = ShardRows()
    while batch := list(itertools.islice(samples, batch_size)):
        images = from_bytes(torch.from_numpy(np.stack([image for _, image in batch])).to(device))
        encoded = encoder.encode(images)
        _require_storable(encoded.latents, shard)
        rows.keys += [key for key, _ in batch]
        rows.total += float(encoded.latents.double().sum())
        rows.squares += float(encoded.latents.double().square().sum())
        rows.latents.append(encoded.latents.cpu().numpy().astype(np.float16))
        if encoded.codes is not None:
            rows.codes.append(encoded.codes.cpu().numpy().astype(np.int32))
    return rows


def _require_storable(latents: torch.Tensor, shard: str) -> None:
    largest = float(latents.abs().max())
    if not largest <= LARGEST:  # not a number, too
        raise ArtifactError(
            f"encode_latents: shard {shard} gives a latent of {largest}: allowed is up to {LARGEST:.0f}, which half "
            "precision holds: the autoencoder did not train well: look at train_autoencoder"
        )


def _publish(name: str, rows: ShardRows, encoder: ImageEncoder, output: Output) -> None:
    shape = encoder.about.shape
    files: dict[str, tuple[list[np.ndarray], np.ndarray]] = {
        "latents": (rows.latents, np.zeros((0, *shape), np.float16))
    }
    if encoder.about.num_codes is not None:
        files["codes"] = (rows.codes, np.zeros((0, *shape[1:]), np.int32))
    for kind, (blocks, empty) in files.items():
        with output.writing(f"{kind}/{kind}_{name}.npy") as path, path.open("wb") as file:
            np.save(file, np.concatenate([empty, *blocks]))
    with output.writing(f"metadata/metadata_{name}.parquet") as path:
        pq.write_table(pa.table({"key": pa.array(rows.keys, pa.string())}), path)
