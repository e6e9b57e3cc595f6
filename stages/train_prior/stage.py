"""Train the prior on the captioned embeddings."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.train_prior.config import DiffusionPriorConfig
from stages.train_prior.data import load_pairs
from stages.training.launch import train

if TYPE_CHECKING:
    from stages.train_prior.task import PriorTask


def run(
    config: DiffusionPriorConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train the prior, going on from its newest checkpoint.

    Raises:
        InputFault: there are too few captioned images.
    """
    embeddings = inputs["embed_clip"]
    pairs, held_out = load_pairs(config, embeddings)  # before any process starts: too few captions fail at once
    make = partial(make_task, config, embeddings, inputs.get("fit_gaussians"))
    result = train(make, config.training, seed=config.seed, output=output, context=context)
    counts = {
        "captioned": len(pairs) + len(held_out),
        "training_pairs": len(pairs),
        "held_out_pairs": len(held_out),
    }
    return StageSummary(items=result.samples, item_name="samples", counts=counts, metrics=result.metrics)


def make_task(config: DiffusionPriorConfig, embeddings: Artifact, gaussians: Artifact | None) -> "PriorTask":
    """Make the task in a training process."""
    from stages.train_prior.task import PriorTask

    return PriorTask(config, embeddings, gaussians)
