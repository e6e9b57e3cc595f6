"""Start a group of training processes: in this process, or under Ray Train."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class TrainGroup:
    """How many training processes to start, and what each holds."""

    num_workers: int = 1
    num_cpus: int = 1
    num_gpus: float = 0


class TrainLauncher(Protocol):
    """Run ``function(payload, emit)`` once in every process of a training group and wait for all of them.

    Inside, RANK, LOCAL_RANK and WORLD_SIZE are set and torch.distributed is ready to be used by DeepSpeed.
    ``emit`` sends an event to the caller's ``emit``. The return value is rank 0's.
    """

    def __call__(
        self,
        function: Callable[[Any, Callable[[Any], None]], Any],
        payload: Any,
        group: TrainGroup,
        emit: Callable[[Any], None],
    ) -> Any:
        """Return what rank 0 returned; raise what any rank raised."""
        ...
