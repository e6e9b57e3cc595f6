"""Encode the images of all shards."""

import collections
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from stages.contract.errors import ArtifactError, InputFault
from stages.contract.events import Progress
from stages.contract.stage import StageContext, StageSummary
from stages.encode_latents.config import EncodeByAutoencoder, EncodeByStableDiffusion
from stages.formats.latents import IDENTITY, LatentsIdentity
from stages.storage.artifact import Artifact, Output
from stages.streaming.upstream import UpstreamUnits

Record = dict[str, Any]


def run(
    config: EncodeByAutoencoder | EncodeByStableDiffusion,
    inputs: Mapping[str, Artifact],
    output: Output,
    context: StageContext,
) -> StageSummary:
    """Encode every shard that is not done yet, as it is downloaded, then say how the latents are to be scaled.

    Raises:
        InputFault: the autoencoder cannot be loaded, or there is no image to encode.
        ArtifactError: the autoencoder gives the same for all images.
        InputLost: the download has failed in the middle.
    """
    shards = UpstreamUnits(inputs["download_shards"], context)
    records = output.done_units()
    device = "cuda" if context.resources.gpus_per_worker > 0 else "cpu"
    make_worker = functools.partial(_make_worker, config, inputs, output, device)
    images = sum(int(record["rows"]) for record in records.values())

    def report() -> None:
        context.emit(Progress(len(records), shards.write_plan(output), "shards", items=images, note=shards.note))

    report()
    for name, record in context.map_shards(make_worker, shards.without(records), context.resources.for_shards()):
        records[name] = record
        images += int(record["rows"])
        report()
    shards.write_plan(output)
    return _summarise(config.kind, records, output)


def _make_worker(
    config: EncodeByAutoencoder | EncodeByStableDiffusion,
    inputs: Mapping[str, Artifact],
    output: Output,
    device: str,
) -> Callable[[str], tuple[str, Record]]:
    """Make the worker where it works: torch and diffusers are imported there only."""
    from stages.encode_latents.shard import make_encode_worker

    return make_encode_worker(config, inputs, output, device)


def _summarise(kind: str, records: Mapping[str, Record], output: Output) -> StageSummary:
    """Measure mean and deviation over all latents (arXiv 2112.10752, appendix G), and write the identity."""
    images = sum(record["rows"] for record in records.values())
    failures: collections.Counter[str] = collections.Counter()
    for record in records.values():
        failures.update(record["failures"])
    if images == 0:
        raise InputFault(
            f"encode_latents: the {len(records)} shards hold no readable image (failures by cause: "
            f"{dict(failures)}): look at the counts of download_shards"
        )
    mean, std = _statistics(records)
    encoder = output.read_json("encoder.json")
    if encoder["scale_factor"] is None:
        if std == 0:
            raise ArtifactError(
                "encode_latents: the autoencoder gives the same latents for all images: expected ones that tell them "
                "apart: look at the reconstructions of train_autoencoder"
            )
        encoder |= {"scale_factor": 1 / std, "shift": mean}
    identity = LatentsIdentity(kind=kind, mean=mean, std=std, **encoder)
    output.write_json(IDENTITY, asdict(identity))
    counts = {"images": images} | {f"failed_{cause}": count for cause, count in sorted(failures.items())}
    metrics = {"scale_factor": identity.scale_factor, "latent_mean": mean, "latent_deviation": std}
    return StageSummary(items=images, counts=counts, metrics=metrics)


def _statistics(records: Mapping[str, Record]) -> tuple[float, float]:
    ordered = [records[name] for name in sorted(records)]  # so that sums do not depend on which shard came first
    numbers, total, squares = (math.fsum(record[key] for record in ordered) for key in ("numbers", "sum", "squares"))
    mean = total / numbers
    return mean, math.sqrt(max(squares / numbers - mean**2, 0.0))
