"""Start the training of a super-resolution model from a stage: free of torch."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from stages.contract.sizing import Shapes
from stages.contract.stage import StageContext, StageSummary
from stages.storage.artifact import Artifact, Output
from stages.training.launch import train
from stages.training.upsampling.config import UpsamplerTrainingConfig

if TYPE_CHECKING:
    from torch import nn

    from stages.training.upsampling.task import UpsamplerTask


def train_upsampler(
    config: UpsamplerTrainingConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train the model of a level, with no other level at hand."""
    make = partial(make_task, config, inputs)
    return train(make, config.training, seed=config.seed, output=output, context=context)


def make_task(config: UpsamplerTrainingConfig, inputs: Mapping[str, Artifact]) -> "UpsamplerTask":
    """Make the task in a training process."""
    from stages.training.upsampling.task import UpsamplerTask

    return UpsamplerTask(config, inputs)


def planned_module(config: UpsamplerTrainingConfig, shapes: Shapes) -> "nn.Module":
    """Return what would be trained, for its size.

    Raises:
        Unknown: the configuration alone does not say it.
    """
    module: nn.Module = config.spec(shapes.embed_dim).build_training()
    return module
