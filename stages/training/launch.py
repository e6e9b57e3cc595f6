"""Start training from a stage: free of torch, so that the stage's own process does not load it twice over.

Processes are started first and load torch, DeepSpeed and the models themselves; see :mod:`stages.training.loop`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.training import TrainGroup
from stages.contract.events import Event
from stages.contract.stage import StageContext
from stages.formats.checkpoints import remove_checkpoints
from stages.storage.artifact import Output
from stages.training.config import TrainingConfig

if TYPE_CHECKING:
    from stages.training.task import TrainTask

MODEL_UNIT = "model"


@dataclass(frozen=True)
class TrainResult:
    """What training reports at its end."""

    samples: int
    metrics: Mapping[str, float]
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainJob:
    """Everything a training process needs to know; pickled to each of them."""

    make_task: "Callable[[], TrainTask]"
    config: TrainingConfig
    seed: int
    output: Output
    use_gpu: bool = False


def train(
    make_task: "Callable[[], TrainTask]",
    config: TrainingConfig,
    *,
    seed: int,
    output: Output,
    context: StageContext,
) -> TrainResult:
    """Train on the granted workers and return what was reached; a half-trained model is taken up where it stands.

    ``make_task`` is called once in each training process; it is pickled, so it is a module's function or a partial of
    one, and imports what it needs itself.
    """
    samples = config.num_steps * config.batch_size
    if MODEL_UNIT not in output.done_units():
        allocation = context.resources
        group = TrainGroup(allocation.num_workers, allocation.cpus_per_worker, allocation.gpus_per_worker)
        job = TrainJob(make_task, config, seed, output, use_gpu=allocation.gpus_per_worker > 0)
        context.launch_training(training_process, job, group, context.emit)
    remove_checkpoints(output)
    trained = output.done_units()[MODEL_UNIT]
    return TrainResult(samples, trained["metrics"], trained.get("notes", {}))


def training_process(job: TrainJob, emit: Callable[[Event], None]) -> None:
    """Train as one process of the group."""
    from stages.training.loop import run_training

    run_training(job, emit)
