"""Make a prior of few steps: train its teacher, unless it comes from elsewhere, and then the student, each to its end.

The teacher lies in ``teacher/`` of the same artifact, with checkpoints, weights and evaluation of its own, so that
either training goes on where it was cut.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from stages.contract.events import Event, LoggedImage, LoggedSteps, Metrics, Progress, RolledBack
from stages.contract.measures import Measure, Protocol
from stages.contract.stage import StageContext, StageSummary
from stages.storage.artifact import Artifact, Output
from stages.train_prior.config import TEACHER, SolvedPriorConfig
from stages.train_prior.data import PairCounts
from stages.training.config import TrainingPart
from stages.training.launch import make_task, train


def run_distillation(
    config: SolvedPriorConfig,
    inputs: Mapping[str, Artifact],
    output: Output,
    context: StageContext,
    found: PairCounts,
) -> StageSummary:
    """Train both priors, and return a summary with the student's metrics."""
    assert config.distillation is not None
    embeddings, gaussians = inputs["embed_clip"], inputs.get("fit_gaussians")
    # Neither is gone on with: whatever changes the teacher changes the student from its first step on.
    training, before = (one.model_copy(update={"keep_checkpoint": False}) for one in (
        config.distillation.own(config.training), config.all_training
    ))  # fmt: skip
    *earlier, student = config.parts
    steps, metrics = student.first_step + training.num_steps, dict[str, int | float]()
    measures, protocols = dict[str, Measure](), dict[str, Protocol]()
    for teacher in earlier:
        below = Output(f"{output.uri}/{TEACHER}", output.stage, output.fingerprint, fence=output.fence)
        make = partial(make_task, "stages.train_prior.task:PriorTask", config, embeddings, gaussians, below)
        said = replace(context, emit=_of_part(context.emit, teacher, steps, before.batch_size))
        taught = train(make, before, seed=config.seed, output=below, context=said)
        metrics = {f"{teacher.prefix}{name}": value for name, value in taught.metrics.items()}
        measures = {f"{teacher.prefix}{name}": measure for name, measure in taught.measures.items()}
        protocols = dict(taught.protocols)
    make = partial(make_task, "stages.train_prior.student:StudentTask", config, embeddings, gaussians, output)
    said = replace(context, emit=_of_part(context.emit, student, steps, training.batch_size))
    summary = train(
        make,
        training,
        seed=config.seed,
        output=output,
        context=said,
        item_name="samples",
        counts=found.counts,
        notes={**config.lineage, **found.notes},
    )
    return replace(
        summary,
        items=steps * training.batch_size,
        metrics=metrics | dict(summary.metrics),
        measures=measures | dict(summary.measures),
        protocols=protocols | dict(summary.protocols),
    )


def _of_part(emit: Callable[[Event], None], part: TrainingPart, total: int, batch_size: int) -> Callable[[Event], None]:
    """Return what reports a training as one part of a longer one, under names of its own."""
    first = part.first_step

    def report(event: Event) -> None:
        match event:
            case Progress():
                done = first + event.done
                emit(replace(event, done=done, total=total, items=done * batch_size))
            case Metrics():
                emit(part.reported(event))
            case LoggedSteps():
                emit(part.logged(event))
            case RolledBack():
                emit(part.rolled_back(event))
            case LoggedImage():
                emit(replace(event, name=f"{part.prefix}{event.name}", step=first + event.step))
            case _:
                emit(event)

    return report
