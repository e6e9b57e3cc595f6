"""Encode the images of all shards."""

import functools
import math
from collections.abc import Callable, Mapping

from stages.contract.errors import ArtifactError
from stages.contract.stage import StageContext, StageSummary
from stages.encode_latents.config import EncodeByAutoencoder, EncodeByStableDiffusion
from stages.formats.latents import EncoderIdentity, LatentsIdentity, LatentsRecord, take_part
from stages.storage.artifact import Artifact, Output
from stages.streaming.runner import run_on_shards


def run(
    config: EncodeByAutoencoder | EncodeByStableDiffusion,
    inputs: Mapping[str, Artifact],
    output: Output,
    context: StageContext,
) -> StageSummary:
    """Encode every shard that is not done yet, as it is downloaded, then write how the latents are to be scaled."""
    device = "cuda" if context.resources.gpus_per_worker > 0 else "cpu"
    make_worker = functools.partial(_make_worker, config, inputs, output, device)
    records, totals = run_on_shards(
        LatentsRecord, make_worker, inputs["download_shards"], output, context, take_part=take_part
    )
    identity = _identity(config.kind, records, output)
    identity.write(output)
    metrics = {"scale_factor": identity.scale_factor, "latent_mean": identity.mean, "latent_std": identity.std}
    return StageSummary(items=totals.images, counts=totals.named, metrics=metrics)


def _make_worker(
    config: EncodeByAutoencoder | EncodeByStableDiffusion, inputs: Mapping[str, Artifact], output: Output, device: str
) -> Callable[[str], LatentsRecord]:
    """Make the worker in its own process: torch and diffusers are imported there only."""
    from stages.encode_latents.worker import make_encode_worker

    return make_encode_worker(config, inputs, output, device)


def _identity(kind: str, records: Mapping[str, LatentsRecord], output: Output) -> LatentsIdentity:
    """Measure mean and standard deviation over all latents (arXiv 2112.10752, appendix G)."""
    mean, std = _statistics(records)
    encoder = EncoderIdentity.of(output)
    factor, shift = encoder.scale_factor, encoder.shift
    if factor is None:
        if std == 0:
            raise ArtifactError(
                "encode_latents: the autoencoder gives the same latents for all images: expected ones that differ "
                "between images: look at the reconstructions of train_autoencoder"
            )
        factor, shift = 1 / std, mean
    measured = {"kind": kind, "mean": mean, "std": std, "scale_factor": factor, "shift": shift}
    return LatentsIdentity.model_validate(encoder.model_dump() | measured)


def _statistics(records: Mapping[str, LatentsRecord]) -> tuple[float, float]:
    ordered = [records[name] for name in sorted(records)]  # so that sums do not depend on which shard came first
    numbers = math.fsum(record.numbers for record in ordered)
    mean = math.fsum(record.sum for record in ordered) / numbers
    squares = math.fsum(record.squares for record in ordered) / numbers
    return mean, math.sqrt(max(squares - mean**2, 0.0))
