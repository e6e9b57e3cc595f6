"""Caption the images of all shards."""

import functools
from collections.abc import Callable, Mapping

from stages.caption_images.config import CaptionImagesConfig
from stages.contract.documents import Totals
from stages.contract.errors import InputFault
from stages.contract.stage import StageContext, StageSummary
from stages.formats.pseudo_captions import Captioner, PseudoCaptionsRecord, take_part
from stages.storage.artifact import Artifact, Output
from stages.streaming.runner import run_on_shards


def run(
    config: CaptionImagesConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Caption every shard that is not done yet, as it is downloaded."""
    resources = context.resources
    device = "cuda" if resources.gpus_per_worker > 0 else "cpu"
    shards = inputs["download_shards"]
    make_worker = functools.partial(_make_worker, config, shards, output, device, resources.cpus_per_worker)
    _, totals = run_on_shards(PseudoCaptionsRecord, make_worker, shards, output, context, take_part=take_part)
    found = _require_yield(config, totals)
    notes = {"captioner": str(Captioner.of(output)), "revision": Captioner.of(output).revision or "not stated"}
    return StageSummary(totals.images, counts=totals.named, metrics={"yield": found}, notes=notes)


def _make_worker(
    config: CaptionImagesConfig, shards: Artifact, output: Output, device: str, threads: int
) -> Callable[[str], PseudoCaptionsRecord]:
    """Make the worker in its own process: torch and transformers are imported there only."""
    from stages.caption_images.worker import make_caption_worker

    return make_caption_worker(config, shards, output, device=device, threads=threads)


def _require_yield(config: CaptionImagesConfig, totals: Totals) -> float:
    """Return which fraction of the images to caption got a caption."""
    counts, lost = totals.counts, sum(totals.causes.values())
    wanted = totals.images - counts.get("left_to_human_captions", 0) + lost
    captioned = counts.get("pseudo_captioned", 0)
    found = captioned / wanted if wanted else 1.0
    if found < config.min_yield:
        causes = dict(totals.causes) | {"empty captions": counts.get("empty_pseudo_captions", 0)}
        raise InputFault(
            f"caption_images: {captioned} of {wanted} images got a caption ({found:.1%}), below "
            f"caption_images.min_yield = {config.min_yield:.1%}: failures by cause: {causes}: look at "
            "`corgi inspect`, name another model or prompt, or lower min_yield"
        )
    return found
