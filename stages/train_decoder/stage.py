"""Train the decoder on all images."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from stages.contract.sizing import Shapes
from stages.contract.stage import StageContext, StageSummary
from stages.formats.buckets import BucketsRecord
from stages.storage.artifact import Artifact, Output
from stages.train_decoder.config import KINDS, TrainDecoderConfig
from stages.training.launch import train

if TYPE_CHECKING:
    from torch import nn

    from stages.training.images.task import DecoderTask


def run(
    config: TrainDecoderConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train, or go on training, and leave the decoder in decoder/."""
    make = partial(make_task, config, inputs)
    summary = train(make, config.training, seed=config.seed, output=output, context=context, notes=config.lineage)
    if config.buckets is None:
        return summary
    record = BucketsRecord.of(output)
    counts = {f"images_{size}": count for size, count in record.images.items()}
    return replace(
        summary,
        counts={**summary.counts, **counts},
        metrics={**summary.metrics, "cropped_fraction": record.cropped_fraction},
        notes={**summary.notes, "buckets": record.describe()},
    )


def make_task(config: TrainDecoderConfig, inputs: Mapping[str, Artifact]) -> "DecoderTask":
    """Return the task of the kind in a training process, importing what this kind needs and nothing else."""
    task: DecoderTask = resolve_name(KINDS[config.kind].task)(config, inputs)
    return task


def planned_module(config: TrainDecoderConfig, shapes: Shapes) -> "nn.Module":
    """Return what would be trained, for its size."""
    module: nn.Module = resolve_name(KINDS[config.kind].task).planned_module(config, shapes)
    return module
