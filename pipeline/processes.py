"""What every process of a run gets beside its work: how file systems are reached, credentials included.

It travels inside the arguments of tasks, which Ray keeps in memory, and never in a runtime environment, which Ray
writes into its logs and shows on its dashboard. What a process raises leaves it without secrets: Ray logs that too.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.mapping import Items, MakeWorker, WorkerResources
from cluster.pool import map_on_ray
from cluster.training import TrainFunction, TrainGroup
from cluster.workers import MachineWorkers, WorkersByMachine, machine_name
from pipeline.logs.lines import ForwardLogs, forwarding_logs
from stages.contract.errors import StageError
from stages.contract.events import Workers
from stages.contract.secrets import redacted_error
from stages.storage.filesystems import use_environment


@contextlib.contextmanager
def raising_no_secrets() -> Iterator[None]:
    """Let errors pass without the secrets that their messages, causes and notes quote."""
    try:
        yield
    except Exception as error:
        if (clean := redacted_error(error, StageError)) is None:
            raise
        raise clean from None


@dataclass(frozen=True)
class Environment:
    """Variables of a run; a process that has entered them reaches what its driver reaches."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def enter(self) -> None:
        """Set them in this process."""
        use_environment(self.variables)

    def map_on_ray(
        self, make_worker: MakeWorker, items: Items, resources: WorkerResources, *, emit: Callable[[Any], None]
    ) -> Iterator[Any]:
        """Map as :func:`cluster.pool.map_on_ray` does, in workers that have entered this environment.

        Their log records go to ``emit``, and where they are.
        """
        work = functools.partial(_make_worker, self, emit, make_worker)
        return map_on_ray(work, items, resources, functools.partial(report_workers, emit))

    def launch_training(
        self,
        function: TrainFunction,
        payload: Any,
        group: TrainGroup,
        emit: Callable[[Any], None],
        progress: Callable[[], int] = lambda: 0,
        *,
        ending: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Train under Ray Train, which takes a second to import: only stages that train pay for it."""
        from cluster.ray_train import launch_with_ray_train

        work = functools.partial(_train, self, function)
        report = functools.partial(report_workers, emit)
        return launch_with_ray_train(work, payload, group, emit, progress, ending=ending, report=report)


def report_workers(emit: Callable[[Any], None], machines: WorkersByMachine = ()) -> None:
    """Report where a stage computes; without any machine, in the process that runs it."""
    emit(Workers(machines or (MachineWorkers(machine_name(), 1),)))


def _make_worker(
    environment: Environment, emit: Callable[[Any], None], make_worker: MakeWorker
) -> Callable[[Any], Any]:
    environment.enter()
    logs = ForwardLogs(emit)
    with forwarding_logs(logs), raising_no_secrets():
        work = make_worker()

    def work_in_environment(item: Any) -> Any:
        logs.shard = str(getattr(item, "name", item))
        with forwarding_logs(logs), raising_no_secrets():
            return work(item)

    return work_in_environment


def _train(environment: Environment, function: TrainFunction, payload: Any, emit: Callable[[Any], None]) -> Any:
    environment.enter()
    with forwarding_logs(ForwardLogs(emit)), raising_no_secrets():
        return function(payload, emit)
