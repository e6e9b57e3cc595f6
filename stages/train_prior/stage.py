"""Train the prior on the captioned embeddings."""

from collections.abc import Mapping

from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.train_prior.config import DiffusionPriorConfig
from stages.train_prior.data import load_pairs
from stages.train_prior.task import PriorTask
from stages.training.loop import train


def run(
    config: DiffusionPriorConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Train the prior, going on from its newest checkpoint.

    Raises:
        InputFault: there are too few captioned images.
    """
    embeddings = inputs["embed_clip"]
    pairs, held_out = load_pairs(config, embeddings)  # before any process starts: too few captions fail at once
    task = PriorTask(config, embeddings, inputs.get("fit_gaussians"))
    result = train(task, config.training, seed=config.seed, output=output, context=context)
    counts = {
        "captioned": len(pairs) + len(held_out),
        "training_pairs": len(pairs),
        "held_out_pairs": len(held_out),
    }
    return StageSummary(items=result.samples, item_name="samples", counts=counts, metrics=result.metrics)
