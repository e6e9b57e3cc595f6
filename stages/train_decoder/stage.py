"""Train the decoder on all images."""

from collections.abc import Mapping

from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.train_decoder.config import TrainDecoderConfig
from stages.train_decoder.task import PixelDiffusionTask
from stages.training.loop import train


def run(
    config: TrainDecoderConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train, or go on training, and leave the decoder in decoder/.

    Raises:
        InputFault: there are no images, or the batch does not divide among the workers.
    """
    task = PixelDiffusionTask(config, inputs["download_shards"], inputs["embed_clip"])
    result = train(task, config.training, seed=config.seed, output=output, context=context)
    return StageSummary(items=result.samples, item_name="images", metrics=result.metrics)
