"""Train the autoencoder on all images."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from stages.contract.sizing import Shapes
from stages.contract.stage import StageContext, StageSummary
from stages.storage.artifact import Artifact, Output
from stages.train_autoencoder.config import TrainKLConfig, TrainVQConfig
from stages.training.launch import make_task, train

if TYPE_CHECKING:
    from torch import nn


def run(
    config: TrainKLConfig | TrainVQConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train, or go on training, and leave the autoencoder in autoencoder/."""
    make = partial(make_task, "stages.train_autoencoder.task:AutoencoderTask", config, inputs)
    return train(make, config.training, seed=config.seed, output=output, context=context, notes=config.lineage)


def planned_module(config: TrainKLConfig | TrainVQConfig, shapes: Shapes) -> "nn.Module":
    """Return what would be trained, for its size."""
    from torch import nn

    adversary = [] if config.adversary is None else [config.adversary.build()]
    return nn.ModuleList([config.spec.build(), *adversary])
