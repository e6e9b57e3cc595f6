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
    worker = make_worker()
    for item in items:
        yield worker(item)
