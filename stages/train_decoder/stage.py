"""Train the decoder on all images."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.train_decoder.config import TrainDecoderConfig
from stages.training.launch import train

if TYPE_CHECKING:
    from stages.train_decoder.task import PixelDiffusionTask


def run(
    config: TrainDecoderConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train, or go on training, and leave the decoder in decoder/.

    Raises:
        InputFault: there are no images, or the batch does not divide among the workers.
    """
    make = partial(make_task, config, inputs["download_shards"], inputs["embed_clip"])
    result = train(make, config.training, seed=config.seed, output=output, context=context)
    return StageSummary(items=result.samples, item_name="images", metrics=result.metrics)


def make_task(config: TrainDecoderConfig, shards: Artifact, embeddings: Artifact) -> "PixelDiffusionTask":
    """Make the task in a training process."""
    from stages.train_decoder.task import PixelDiffusionTask

    return PixelDiffusionTask(config, shards, embeddings)
