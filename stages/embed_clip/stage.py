"""Embed the images and captions of all shards by CLIP, and their captions by text encoders."""

import collections
import functools
from collections.abc import Callable, Mapping
from typing import Any

from stages.contract.errors import InputFault
from stages.contract.events import Progress
from stages.contract.stage import StageContext, StageSummary
from stages.embed_clip.config import EmbedClipConfig
from stages.embed_clip.existing import import_embeddings
from stages.encoders.config import with_trained
from stages.storage.artifact import Artifact, Output
from stages.streaming.upstream import UpstreamUnits

CLIPS = "clips.json"
Record = dict[str, Any]


def run(config: EmbedClipConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
    """Embed every shard that is not done yet, as it is downloaded, or take existing embeddings.

    Raises:
        InputFault: a model cannot be loaded, or there is no image to embed.
        InputLost: the download has failed in the middle.
    """
    if config.existing is not None:
        return import_embeddings(config, inputs, output, context)
    shards = UpstreamUnits(inputs["download_shards"], context)
    records = output.done_units()
    device = "cuda" if context.resources.gpus_per_worker > 0 else "cpu"
    threads = context.resources.cpus_per_worker
    make_worker = functools.partial(_make_worker, config, inputs, output, device, threads)
    images = sum(int(record["rows"]) for record in records.values())

    def report() -> None:
        context.emit(Progress(len(records), shards.write_plan(output), "shards", items=images, note=shards.note))

    report()
    for name, record in context.map_shards(make_worker, shards.without(records), context.resources.for_shards()):
        records[name] = record
        images += int(record["rows"])
        report()
    shards.write_plan(output)
    return _summarise(records, output)


def _make_worker(
    config: EmbedClipConfig, inputs: Mapping[str, Artifact], output: Output, device: str, threads: int
) -> Callable[[str], tuple[str, Record]]:
    """Make the worker where it works: torch and open_clip are imported there only, and models lie there."""
    from stages.embed_clip.shard import make_embed_worker

    placed = config.model_copy(update={"clip": with_trained(config.clip, inputs)})
    return make_embed_worker(placed, inputs["download_shards"], output, device=device, threads=threads)


def _summarise(records: Mapping[str, Record], output: Output) -> StageSummary:
    totals: collections.Counter[str] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    for record in records.values():
        totals.update({"images": record["rows"], "captioned": record["captioned"]})
        if "extra_captions" in record:
            totals["extra_captions"] += record["extra_captions"]
        failures.update(record["failures"])
    if totals["images"] == 0:
        raise InputFault(
            f"embed_clip: the {len(records)} shards hold no readable image (failures by cause: {dict(failures)}): "
            "look at the counts of download_shards"
        )
    counts = dict(totals) | {f"failed_{cause}": count for cause, count in sorted(failures.items())}
    dims = sum(clip["embed_dim"] for clip in output.read_json(CLIPS))
    return StageSummary(items=totals["images"], counts=counts, metrics={"embed_dim": dims})
