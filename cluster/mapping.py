"""Spread independent units of work over workers: in this process, or over a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MakeWorker = Callable[[], Callable[[Any], Any]]


@dataclass(frozen=True)
class WorkerResources:
    """What each worker of a map holds while it lives."""

    num_workers: int = 1
    num_cpus: float = 1
    num_gpus: float = 0
    same_node: bool = False  # keep the workers on the caller's machine (to reach a loopback server)


class Mapper(Protocol):
    """Apply a worker to every item, in any order, as results come in.

    ``make_worker`` is called once in each worker process (load models there) and returns the function that is
    called once per item. Both it and the items are pickled. An exception in one item is raised at the caller
    after the other items are done.
    """

    def __call__(self, make_worker: MakeWorker, items: Sequence[Any], resources: WorkerResources) -> Iterator[Any]:
        """Yield the results in the order in which they finish."""
        ...


def map_in_process(make_worker: MakeWorker, items: Sequence[Any], resources: WorkerResources) -> Iterator[Any]:
    """Run the map here, one item after another: for unit tests and for debugging."""
    if not items:
        return
    worker, first_error = make_worker(), None
    for item in items:
        try:
            result = worker(item)
        except Exception as error:  # noqa: BLE001  raised below, when the other items are done
            first_error = first_error or error
        else:
            yield result
    if first_error is not None:
        raise first_error


def map_on_ray(make_worker: MakeWorker, items: Sequence[Any], resources: WorkerResources) -> Iterator[Any]:
    """Run the map on a pool of Ray actors; an actor that dies is started again and its item retried twice."""
    import ray
    from ray.exceptions import RayTaskError

    if not items:
        return
    pool = [_start_worker(make_worker, resources) for _ in range(min(resources.num_workers, len(items)))]
    waiting = list(reversed(items))
    busy = {actor.work.remote(waiting.pop()): actor for actor in pool}
    first_error: BaseException | None = None
    try:
        while busy:
            (done,), _ = ray.wait(list(busy), num_returns=1)
            actor = busy.pop(done)
            if waiting:
                busy[actor.work.remote(waiting.pop())] = actor
            try:
                result = ray.get(done)
            except RayTaskError as error:
                error.cause.add_note(str(error))
                first_error = first_error or error.cause
            else:
                yield result
    finally:
        for actor in pool:
            ray.kill(actor)
    if first_error is not None:
        raise first_error


def _start_worker(make_worker: MakeWorker, resources: WorkerResources) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "max_restarts": 2,
        "max_task_retries": 2,
    }
    if resources.same_node:
        node = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_Worker).options(**options).remote(make_worker)


class _Worker:
    """A process of the pool: makes its worker once, then serves items."""

    def __init__(self, make_worker: MakeWorker) -> None:
        self._worker = make_worker()

    def work(self, item: Any) -> Any:
        """Handle one item."""
        return self._worker(item)
