"""What both upsampler stages do; free of torch."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from stages.contract.sizing import Shapes
from stages.contract.stage import StageContext, StageSummary
from stages.storage.artifact import Artifact, Output
from stages.training.launch import make_task, train
from stages.training.upsampling.config import UpsamplerTrainingConfig

if TYPE_CHECKING:
    from torch import nn


def run(
    config: UpsamplerTrainingConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train, or go on training, with no other level at hand, and leave the model in upsampler/."""
    make = partial(make_task, "stages.training.upsampling.task:UpsamplerTask", config, inputs)
    return train(make, config.training, seed=config.seed, output=output, context=context, notes=config.lineage)


def planned_module(config: UpsamplerTrainingConfig, shapes: Shapes) -> "nn.Module":
    """Return what would be trained, for its size."""
    module: nn.Module = config.spec(shapes.embed_dim).build_training()
    return module
