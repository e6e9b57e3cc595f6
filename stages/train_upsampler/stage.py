"""Train the first super-resolution model of a cascade: the decoder's pictures, enlarged."""

from collections.abc import Mapping

from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.decoder_training.upsampling.training import train_upsampler
from stages.train_upsampler.config import TrainUpsamplerConfig


def run(
    config: TrainUpsamplerConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train, or go on training, and leave the model in upsampler/.

    Raises:
        InputFault: there are no images, they are too small, or the batch does not divide among the workers.
    """
    return train_upsampler(config, inputs, output, context)
