"""Embed the images and captions of all shards by CLIP, and their captions by text encoders."""

import functools
from collections.abc import Callable, Mapping

from stages.contract.stage import StageContext, StageSummary
from stages.embed_clip.config import EmbedClipConfig
from stages.embed_clip.contents import content_of_unit
from stages.embed_clip.existing import import_embeddings
from stages.encoders.config import local_clips
from stages.formats.clips import read_clips
from stages.formats.embeddings.layout import EmbeddingsRecord
from stages.formats.embeddings.parts import take_part
from stages.formats.pseudo_captions import Captioner, record_captioner
from stages.storage.artifact import Artifact, Output
from stages.streaming.runner import run_on_shards


def run(config: EmbedClipConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
    """Embed every shard that is not done yet, as it is downloaded, or import existing embeddings."""
    if config.existing is not None:
        return import_embeddings(config, config.existing, inputs, output, context)
    resources = context.resources
    device = "cuda" if resources.gpus_per_worker > 0 else "cpu"
    make_worker = functools.partial(_make_worker, config, inputs, output, device, resources.cpus_per_worker)
    shards, captioned = inputs["download_shards"], inputs.get("caption_images")
    if captioned is None:
        _, totals = run_on_shards(EmbeddingsRecord, make_worker, shards, output, context, take_part=take_part)
    else:
        content = content_of_unit(inputs)
        _, totals = run_on_shards(
            EmbeddingsRecord, make_worker, shards, output, context, content_of=content, follows=captioned
        )
        record_captioner(output, Captioner.of(captioned))  # where all units were taken over, no worker has done so
    return StageSummary(totals.images, counts=totals.named, metrics={"embed_dim": read_clips(output).embed_dim})


def _make_worker(
    config: EmbedClipConfig, inputs: Mapping[str, Artifact], output: Output, device: str, threads: int
) -> Callable[[str], EmbeddingsRecord]:
    """Make the worker in its own process: torch and open_clip are imported there only, and models lie there."""
    from stages.embed_clip.worker import make_embed_worker

    placed = config.model_copy(update={"clip": local_clips(config.clip, inputs)})
    return make_embed_worker(placed, inputs, output, device=device, threads=threads)
