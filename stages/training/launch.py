"""Start training from a stage; free of torch, so that only the training processes load it."""

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from cluster.training import TrainGroup
from stages.contract.errors import ArtifactError
from stages.contract.events import Event
from stages.contract.stage import Allocation, StageContext, StageSummary
from stages.formats.checkpoints import TrainedRecord, checkpoint_steps, read_logged, remove_checkpoints
from stages.storage.artifact import Output
from stages.training.config import TrainingConfig
from stages.training.continuation import go_on_from_earlier, lineage_notes
from stages.training.job import TrainJob

if TYPE_CHECKING:
    from stages.training.task import TrainTask


def train(
    make_task: "Callable[[], TrainTask]",
    config: TrainingConfig,
    *,
    seed: int,
    output: Output,
    context: StageContext,
    item_name: str = "images",
    counts: Mapping[str, int] | None = None,
    notes: Mapping[str, str] | None = None,
) -> StageSummary:
    """Train on the allocated workers, from the newest checkpoint if there is one, and return the stage's summary.

    ``make_task`` is called once in each training process; it is pickled, so it is a function of a module, or a partial
    of one such as :func:`make_task`. ``counts`` and ``notes`` are added to the summary.
    """
    if TrainedRecord.read(output) is None:
        go_on_from_earlier(output, context, config)
        _emit_logged(output, context.emit)  # by a process that may have been killed before all of it was recorded
        allocation = context.resources
        group = TrainGroup(
            allocation.num_workers,
            allocation.cpus_per_worker,
            allocation.gpus_per_worker,
            smaller=_sizes(allocation, config),
            wait_for_nodes=allocation.wait_for_nodes,
            heartbeat_timeout=allocation.heartbeat_timeout,
            stage_timeout=allocation.stage_timeout,
        )
        job = TrainJob(make_task, config, seed, output, use_gpu=allocation.gpus_per_worker > 0)
        context.launch_training(training_process, job, group, context.emit, lambda: _newest_step(output))
    _emit_logged(output, context.emit)
    remove_checkpoints(output, but=config.num_steps if config.keeps_checkpoint else None)
    trained = TrainedRecord.read(output)
    if trained is None:
        raise ArtifactError(f"training: {output.uri} holds no record of the trained model: run again to train it")
    failures = {f"failed_{cause}": count for cause, count in trained.failures.items()}
    return StageSummary(
        items=config.num_steps * config.batch_size,
        item_name=item_name,
        counts={**(counts or {}), **failures},
        metrics=trained.metrics,
        notes={**trained.notes, **(notes or {}), **lineage_notes(output)},
        measures=trained.measures,
        protocols=trained.protocols,
    )


def _sizes(allocation: Allocation, config: TrainingConfig) -> tuple[int, ...]:
    """Return the smaller numbers of workers over which the batch can be divided, the largest first."""
    sizes = range(allocation.num_workers - 1, allocation.min_workers - 1, -1)
    return tuple(size for size in sizes if config.batch_size % (size * config.gradient_accumulation) == 0)


def _emit_logged(output: Output, emit: Callable[[Event], None]) -> None:
    """Report what is kept of what the training has logged, which its steps will not report again."""
    for part in read_logged(output).split():
        emit(part)


def _newest_step(output: Output) -> int:
    return max(checkpoint_steps(output), default=0)


def make_task(name: str, *arguments: Any, **options: Any) -> "TrainTask":
    """Return the task `module:class` in a training process, which alone imports it."""
    task: TrainTask = resolve_name(name)(*arguments, **options)
    return task


def training_process(job: TrainJob, emit: Callable[[Event], None]) -> None:
    """Train as one process of the group."""
    from stages.training.loop import run_training

    run_training(job, emit)
