"""Train the prior on the captioned embeddings, and evaluate it."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from models.priors.spec import TextStateSpec
from stages.contract.events import Metrics
from stages.contract.measures import Measure, Protocol
from stages.contract.sizing import Shapes
from stages.contract.stage import StageContext, StageSummary
from stages.storage.artifact import Artifact, Output
from stages.train_prior.config import PriorConfig, SolvedPriorConfig, TrainedPriorConfig
from stages.train_prior.data import PairCounts, load_images, load_pairs
from stages.train_prior.distillation import run_distillation
from stages.train_prior.inputs import check_inputs, text_state_names
from stages.training.launch import make_task, train

PSEUDO_ALONE = "pseudo-captions, as fewer than two images with human captions are held out"

if TYPE_CHECKING:
    from torch import nn

    from stages.training.task import TrainTask


def run(config: PriorConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
    """Train the prior, going on from its newest checkpoint; the identity prior is only evaluated and written."""
    embeddings, gaussians = inputs["embed_clip"], inputs.get("fit_gaussians")
    found = _count_pairs(config, embeddings, gaussians)
    make = partial(make_task, "stages.train_prior.task:PriorTask", config, embeddings, gaussians, output)
    if not isinstance(config, TrainedPriorConfig):
        return _evaluate_only(config, make(), output, context, found)
    if isinstance(config, SolvedPriorConfig) and config.distillation is not None:
        return run_distillation(config, inputs, output, context, found)
    return train(
        make,
        config.all_training,
        seed=config.seed,
        output=output,
        context=context,
        item_name="samples",
        counts=found.counts,
        notes={**config.lineage, **found.notes},
    )


def _count_pairs(config: PriorConfig, embeddings: Artifact, gaussians: Artifact | None) -> PairCounts:
    """Read all pairs before any process starts, so that what cannot be trained fails at once; none stay in memory.

    The counts say what is read of pseudo-captions, the notes where these alone can be validated on.
    """
    if config.learned_from == "images":
        images = load_images(config, embeddings)
        check_inputs(config, images.train, embeddings, gaussians)
        counts = {"training_images": len(images.train), "held_out_images": images.record.validation_images}
        return PairCounts(counts)
    pairs = load_pairs(config, embeddings, text_state_names(config, embeddings))
    check_inputs(config, pairs.train, embeddings, gaussians)
    counts = {"training_pairs": len(pairs.train), "held_out_pairs": pairs.num_held_out}
    if not config.captions.reads_pseudo:
        return PairCounts({"captioned": sum(counts.values()) + pairs.record.test_images} | counts)
    notes = {"validated_on": PSEUDO_ALONE} if pairs.on_pseudo else {}
    return PairCounts({"captioned": pairs.human_images, "pseudo_captioned": pairs.pseudo_images} | counts, notes)


def _evaluate_only(
    config: PriorConfig, task: "TrainTask", output: Output, context: StageContext, found: PairCounts
) -> StageSummary:
    """Evaluate and write a prior that has nothing to train, in this process."""
    import torch

    from stages.training.task import RankInfo

    task.setup(RankInfo(0, 1, torch.device("cpu")))
    prior = task.build_model().eval()
    metrics: dict[str, float] = {}
    measures, protocols = dict[str, Measure](), dict[str, Protocol]()
    for event in task.validate(prior, 0):
        context.emit(event)
        if isinstance(event, Metrics):
            metrics |= event.values
            measures |= event.measures
            protocols |= event.protocols
    task.save(prior, output)
    return StageSummary(
        min(found.counts["held_out_pairs"], config.validation.max_pairs),
        "samples",
        counts=found.counts,
        metrics=metrics,
        notes=found.notes,
        measures=measures,
        protocols=protocols,
    )


def planned_module(config: Any, shapes: Shapes) -> "nn.Module":
    """Return what would be trained, for its size."""
    made = shapes.text_states
    wanted = made if config.text_states is None else config.text_states
    module: nn.Module = config.spec(
        embed_dim=shapes.embed_dim,
        text_dim=shapes.text_dim,
        num_gaussians=shapes.num_gaussians if config.spec_class.uses_gaussians(config) else 1,
        text_states={name: TextStateSpec(*made[name]()) for name in wanted if name in made},
    ).build()
    if not isinstance(config, SolvedPriorConfig) or config.distillation is None:
        return module
    from torch.nn import ModuleList

    return ModuleList([module, copy.deepcopy(module).requires_grad_(False)])  # the teacher is there, too
