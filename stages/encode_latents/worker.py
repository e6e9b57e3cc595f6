"""Encode one shard."""

import collections
import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from models.decoders.base import from_bytes
from stages.contract.errors import ArtifactError, FailureCause, ImageFault
from stages.encode_latents.config import EncodeByAutoencoder, EncodeByStableDiffusion
from stages.encode_latents.encoders import ImageEncoder, make_encoder
from stages.formats.images import RgbImage, decode_image, square
from stages.formats.latents import LatentsRecord, ShardLatents, record_encoder
from stages.formats.shards import read_shard, shard_tar
from stages.storage.artifact import Artifact, Output

LARGEST = float(np.finfo(np.float16).max)


def make_encode_worker(
    config: EncodeByAutoencoder | EncodeByStableDiffusion, inputs: Mapping[str, Artifact], output: Output, device: str
) -> Callable[[str], LatentsRecord]:
    """Load the encoder and return the function that encodes the shard of a name."""
    encoder = make_encoder(config, inputs, device)
    record_encoder(output, encoder.identity)
    half = device != "cpu" and config.gpu_precision != "float32"
    dtype = getattr(torch, config.gpu_precision)

    def encode(name: str) -> LatentsRecord:
        failures: collections.Counter[str] = collections.Counter()
        samples = _images(inputs["download_shards"], name, encoder.identity.resolution, failures)
        with torch.inference_mode(), torch.autocast(device, dtype=dtype, enabled=half):
            shard = _encode(samples, encoder, batch_size=config.batch_size, device=device, name=name)
        shard.write(name, output, encoder.identity)
        return LatentsRecord(
            rows=len(shard.keys),
            failures=dict(sorted(failures.items())),
            numbers=len(shard.keys) * math.prod(encoder.identity.shape),
            sum=shard.total,
            squares=shard.squares,
        )

    return encode


def _images(
    shards: Artifact, name: str, resolution: int, failures: collections.Counter[str]
) -> Iterator[tuple[str, RgbImage]]:
    """Yield keys and square images of a shard; count those that cannot be read by cause."""
    for sample in read_shard(shard_tar(shards, name), with_captions=False):
        if sample.image is None:
            failures[FailureCause.NO_IMAGE.value] += 1
            continue
        try:
            where = f"shard {name}, key {sample.key!r}"
            image = decode_image(sample.image, where=where, smallest_side=resolution)
        except ImageFault as fault:
            failures[fault.cause.value] += 1
            continue
        yield sample.key, square(image, resolution)


def _encode(
    samples: Iterator[tuple[str, RgbImage]], encoder: ImageEncoder, *, batch_size: int, device: str, name: str
) -> ShardLatents:
    shard = ShardLatents()
    while batch := list(itertools.islice(samples, batch_size)):
        images = from_bytes(torch.from_numpy(np.stack([image for _, image in batch])).to(device))
        encoded = encoder.encode(images)
        _require_storable(encoded.latents, name)
        shard.keys += [key for key, _ in batch]
        shard.total += float(encoded.latents.double().sum())
        shard.squares += float(encoded.latents.double().square().sum())
        shard.latents.append(encoded.latents.cpu().numpy().astype(np.float16))
        if encoded.codes is not None:
            shard.codes.append(encoded.codes.cpu().numpy().astype(np.int32))
    return shard


def _require_storable(latents: torch.Tensor, name: str) -> None:
    largest = float(latents.abs().max())
    if not largest <= LARGEST:  # not a number, too
        raise ArtifactError(
            f"encode_latents: shard {name} gives a latent of {largest}: allowed is up to {LARGEST:.0f}, which half "
            "precision holds: the autoencoder did not train well: look at train_autoencoder"
        )
