"""Caption one shard: images are decoded in threads before the model needs them."""

import collections
import itertools
from collections.abc import Callable, Iterator

from PIL import Image

from cluster.item_progress import note_samples
from stages.caption_images.captioner import ImageCaptioner
from stages.caption_images.config import CaptionImagesConfig
from stages.contract.errors import FailureCause, ImageFault
from stages.formats.images import decode_image
from stages.formats.pseudo_captions import (
    CaptionedImage,
    CaptionStatus,
    PseudoCaptionsRecord,
    count_images,
    record_captioner,
    write_pseudo_captions,
)
from stages.formats.shards import ShardSample, read_shard, shard_tar
from stages.storage.artifact import Artifact, Output
from stages.streaming.prefetch import prefetch

PREFETCHED_BATCHES = 2


def make_caption_worker(
    config: CaptionImagesConfig, shards: Artifact, output: Output, *, device: str, threads: int
) -> Callable[[str], PseudoCaptionsRecord]:
    """Load the model and return the function that captions the shard of a name; ``threads`` decode for it."""
    captioner = ImageCaptioner(config, device=device)
    record_captioner(output, captioner.identity)

    def caption(name: str) -> PseudoCaptionsRecord:
        failures: collections.Counter[str] = collections.Counter()
        images: list[CaptionedImage] = []
        rows = _readable(shards, name, config, threads, failures)
        while batch := list(itertools.islice(rows, config.batch_size)):
            images += _caption(batch, captioner)
            note_samples(len(images))
        write_pseudo_captions(output, name, images)
        return count_images(images, dict(sorted(failures.items())))

    return caption


def _caption(batch: list[tuple[str, Image.Image | None]], captioner: ImageCaptioner) -> Iterator[CaptionedImage]:
    """Caption the images of a batch; those that are None are left to their human captions."""
    wanted = [(key, image) for key, image in batch if image is not None]
    found = captioner.caption([image for _, image in wanted], [key for key, _ in wanted]) if wanted else []
    captions_of = {key: captions for (key, _), captions in zip(wanted, found, strict=True)}
    for key, _ in batch:
        if key not in captions_of:
            yield CaptionedImage(key, CaptionStatus.HAS_HUMAN)
            continue
        captions = list(dict.fromkeys(caption for caption in captions_of[key] if caption))
        empty = captions_of[key].count("")
        yield CaptionedImage(key, CaptionStatus.CAPTIONED if captions else CaptionStatus.EMPTY, captions, empty)


def _readable(
    shards: Artifact, name: str, config: CaptionImagesConfig, threads: int, failures: collections.Counter[str]
) -> Iterator[tuple[str, Image.Image | None]]:
    """Yield keys and images of a shard in their order, None of those left to their human captions; count the others
    by cause.
    """
    needs_captions = config.images == "uncaptioned"

    def decode(sample: ShardSample) -> tuple[str, Image.Image | FailureCause | None]:
        if sample.image is None:
            return sample.key, FailureCause.NO_IMAGE
        if needs_captions and any(caption.strip() for caption in sample.captions):
            return sample.key, None
        try:
            return sample.key, decode_image(sample.image, where=f"shard {name}, key {sample.key!r}")
        except ImageFault as fault:
            return sample.key, fault.cause

    samples = read_shard(shard_tar(shards, name), with_captions=needs_captions)
    for key, found in prefetch(decode, samples, threads=threads, most=PREFETCHED_BATCHES * config.batch_size):
        if isinstance(found, FailureCause):
            failures[found.value] += 1
        else:
            yield key, found
