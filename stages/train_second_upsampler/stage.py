"""Train the second super-resolution model of a cascade: the first one's images, enlarged."""

from collections.abc import Mapping

from stages.contract.stage import StageContext, StageSummary
from stages.storage.artifact import Artifact, Output
from stages.train_second_upsampler.config import TrainSecondUpsamplerConfig
from stages.training.upsampling.launch import planned_module, train_upsampler

__all__ = ["planned_module", "run"]


def run(
    config: TrainSecondUpsamplerConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train, or go on training, and leave the model in upsampler/."""
    return train_upsampler(config, inputs, output, context)
