"""Train the second super-resolution model of a cascade: the first one's pictures, enlarged."""

from collections.abc import Mapping

from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.decoder_training.upsampling.training import train_upsampler
from stages.train_second_upsampler.config import TrainSecondUpsamplerConfig


def run(
    config: TrainSecondUpsamplerConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train, or go on training, and leave the model in upsampler/.

    Raises:
        InputFault: there are no images, they are too small, or the batch does not divide among the workers.
    """
    return train_upsampler(config, inputs, output, context)
