"""What every training process receives from the stage; free of torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.storage.artifact import Output
from stages.training.config import TrainingConfig

if TYPE_CHECKING:
    from stages.training.task import TrainTask


@dataclass(frozen=True)
class TrainJob:
    """Pickled to each training process, which calls ``make_task`` once."""

    make_task: "Callable[[], TrainTask]"
    config: TrainingConfig
    seed: int
    output: Output
    use_gpu: bool = False
