"""Encode the pictures of all shards."""

import collections
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from cluster.mapping import WorkerResources
from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.encode_latents.config import EncodeByAutoencoder, EncodeByStableDiffusion
from stages.errors import ArtifactError, InputFault
from stages.events import Progress
from stages.latents import IDENTITY, LatentsIdentity

PLAN = "plan.json"
Record = dict[str, Any]


def run(
    config: EncodeByAutoencoder | EncodeByStableDiffusion,
    inputs: Mapping[str, Artifact],
    output: Output,
    context: StageContext,
) -> StageSummary:
    """Encode every shard that is not done yet, then say how the latents are to be scaled.

    Raises:
        InputFault: the autoencoder cannot be loaded, or there is no picture to encode.
        ArtifactError: the autoencoder gives the same for all pictures.
    """
    names = sorted(inputs["download_shards"].done_units())
    output.write_json(PLAN, {"units": len(names)})
    records = output.done_units()
    granted = context.resources
    resources = WorkerResources(granted.num_workers, granted.cpus_per_worker, granted.gpus_per_worker)
    device = "cuda" if granted.gpus_per_worker > 0 else "cpu"
    make_worker = functools.partial(_make_worker, config, inputs, output, device)

    def report() -> None:
        pictures = sum(record["rows"] for record in records.values())
        context.emit(Progress(len(records), len(names), "shards", items=pictures))

    report()
    for name, record in context.map_shards(make_worker, [name for name in names if name not in records], resources):
        records[name] = record
        report()
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
    pictures = sum(record["rows"] for record in records.values())
    failures: collections.Counter[str] = collections.Counter()
    for record in records.values():
        failures.update(record["failures"])
    if pictures == 0:
        raise InputFault(
            f"encode_latents: the {len(records)} shards hold no readable picture (failures by cause: "
            f"{dict(failures)}): look at the counts of download_shards"
        )
    mean, deviation = _statistics(records)
    encoder = output.read_json("encoder.json")
    if encoder["scale_factor"] is None:
        if deviation == 0:
            raise ArtifactError(
                "encode_latents: the autoencoder gives the same latents for all pictures: expected ones that tell them "
                "apart: look at the reconstructions of train_autoencoder"
            )
        encoder |= {"scale_factor": 1 / deviation, "shift": mean}
    identity = LatentsIdentity(kind=kind, mean=mean, deviation=deviation, **encoder)
    output.write_json(IDENTITY, asdict(identity))
    counts = {"images": pictures} | {f"failed_{cause}": count for cause, count in sorted(failures.items())}
    metrics = {"scale_factor": identity.scale_factor, "latent_mean": mean, "latent_deviation": deviation}
    return StageSummary(items=pictures, counts=counts, metrics=metrics)


def _statistics(records: Mapping[str, Record]) -> tuple[float, float]:
    ordered = [records[name] for name in sorted(records)]  # so that sums do not depend on which shard came first
    numbers, total, squares = (math.fsum(record[key] for record in ordered) for key in ("numbers", "sum", "squares"))
    mean = total / numbers
    return mean, math.sqrt(max(squares / numbers - mean**2, 0.0))
