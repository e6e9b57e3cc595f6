"""Encode one shard."""

import collections
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from cluster.item_progress import note_samples
from models.decoders.base import from_bytes
from models.decoders.bucket_fit import nearest_buckets
from stages.contract.errors import ArtifactError, FailureCause, ImageFault
from stages.encode_latents.config import EncodeByAutoencoder, EncodeByStableDiffusion
from stages.encode_latents.encoders import ImageEncoder, make_encoder
from stages.formats.images import RgbImage, covering, cropped, decode_image, square
from stages.formats.latents import EncoderIdentity, LatentsRecord, ShardLatents, record_encoder, write_buckets
from stages.formats.shards import read_shard, shard_tar
from stages.storage.artifact import Artifact, Output

Batch = list[tuple[str, RgbImage]]
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
        identity, found = encoder.identity, dict[int, ShardLatents]()
        samples = _images(inputs["download_shards"], name, identity, failures)
        with torch.inference_mode(), torch.autocast(device, dtype=dtype, enabled=half):
            for bucket, batch in _batches(samples, config.batch_size):
                _encode(batch, encoder, found.setdefault(bucket, ShardLatents()), device=device, name=name)
                note_samples(sum(len(shard.keys) for shard in found.values()))
        if identity.buckets is None:
            found.get(0, ShardLatents()).write(name, output, identity)
        else:
            write_buckets(found, name, output, identity)
        shapes = {bucket: identity.shape_of(identity.sizes[bucket]) for bucket in found}
        return LatentsRecord(
            rows=sum(len(shard.keys) for shard in found.values()),
            failures=dict(sorted(failures.items())),
            numbers=sum(len(shard.keys) * math.prod(shapes[bucket]) for bucket, shard in found.items()),
            sum=sum(shard.total for shard in found.values()),
            squares=sum(shard.squares for shard in found.values()),
        )

    return encode


def _images(
    shards: Artifact, name: str, identity: EncoderIdentity, failures: collections.Counter[str]
) -> Iterator[tuple[int, str, RgbImage]]:
    """Yield bucket, key and image of the images of a shard; count those that cannot be read by cause."""
    resolution, sizes = identity.resolution, identity.sizes
    smallest = max(max(size) for size in sizes)
    for sample in read_shard(shard_tar(shards, name), with_captions=False):
        if sample.image is None:
            failures[FailureCause.NO_IMAGE.value] += 1
            continue
        try:
            where = f"shard {name}, key {sample.key!r}"
            image = decode_image(sample.image, where=where, smallest_side=smallest)
        except ImageFault as fault:
            failures[fault.cause.value] += 1
            continue
        if identity.buckets is None:
            yield 0, sample.key, square(image, resolution)
            continue
        bucket = int(nearest_buckets([image.width], [image.height], sizes)[0])
        yield bucket, sample.key, cropped(covering(image, sizes[bucket]), sizes[bucket])


def _batches(samples: Iterator[tuple[int, str, RgbImage]], batch_size: int) -> Iterator[tuple[int, Batch]]:
    """Yield buckets and images of them, as many as a batch holds at once; the last of each bucket may be fewer."""
    waiting: dict[int, Batch] = {}
    for bucket, key, image in samples:
        batch = waiting.setdefault(bucket, [])
        batch.append((key, image))
        if len(batch) == batch_size:
            yield bucket, waiting.pop(bucket)
    yield from waiting.items()


def _encode(batch: Batch, encoder: ImageEncoder, shard: ShardLatents, *, device: str, name: str) -> None:
    """Add a batch to what is known of a shard's bucket."""
    images = from_bytes(torch.from_numpy(np.stack([image for _, image in batch])).to(device))
    encoded = encoder.encode(images)
    _require_storable(encoded.latents, name)
    shard.keys += [key for key, _ in batch]
    shard.total += float(encoded.latents.double().sum())
    shard.squares += float(encoded.latents.double().square().sum())
    shard.latents.append(encoded.latents.cpu().numpy().astype(np.float16))
    if encoded.codes is not None:
        shard.codes.append(encoded.codes.cpu().numpy().astype(np.int32))


def _require_storable(latents: torch.Tensor, name: str) -> None:
    largest = float(latents.abs().max())
    if not largest <= LARGEST:  # not a number, too
        raise ArtifactError(
            f"encode_latents: shard {name} gives a latent of {largest}: allowed is up to {LARGEST:.0f}, which half "
            "precision holds: the autoencoder did not train well: look at train_autoencoder"
        )
