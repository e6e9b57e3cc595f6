"""Start the training of a super-resolution model from a stage: free of torch."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.decoder_training.upsampling.config import UpsamplerTrainingConfig
from stages.training.launch import train

if TYPE_CHECKING:
    from stages.decoder_training.upsampling.task import UpsamplerTask


def train_upsampler(
    config: UpsamplerTrainingConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train the model of a level, with no other level at hand."""
    make = partial(make_task, config, inputs)
    result = train(make, config.training, seed=config.seed, output=output, context=context)
    return StageSummary(items=result.samples, item_name="images", metrics=result.metrics, notes=result.notes)


def make_task(config: UpsamplerTrainingConfig, inputs: Mapping[str, Artifact]) -> "UpsamplerTask":
    """Make the task in a training process."""
    from stages.decoder_training.upsampling.task import UpsamplerTask

    return UpsamplerTask(config, inputs)
