"""A map over shards that notes when work on the first one began and when the last one ended."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

from cluster.mapping import MakeWorker, Mapper, WorkerResources, map_in_process
from cluster.pool import map_on_ray


class TimedMap:
    """Runs a map and measures it without the start of its workers; ``seconds`` is by the clock."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper
        self._times: list[tuple[float, float]] = []

    @classmethod
    @contextlib.contextmanager
    def on_workers(cls, num_workers: int) -> "Iterator[TimedMap]":
        """Work in this process, or on Ray where there are several workers."""
        if num_workers == 1:
            yield cls(map_in_process)
            return
        from cluster.session import session

        with session(None, num_cpus=num_workers):
            yield cls(map_on_ray)

    def __call__(self, make_worker: MakeWorker, items: Any, resources: WorkerResources) -> Iterator[Any]:
        """Run the map."""
        for times, result in self._mapper(functools.partial(_timed_worker, make_worker), items, resources):
            self._times.append(times)
            yield result

    @property
    def seconds(self) -> float:
        """From the begin of the first item to the end of the last."""
        return max(end for _, end in self._times) - min(begin for begin, _ in self._times)


def _timed_worker(make_worker: MakeWorker) -> Callable[[Any], tuple[tuple[float, float], Any]]:
    work = make_worker()

    def timed(item: Any) -> tuple[tuple[float, float], Any]:
        begin = time.time()
        result = work(item)
        return (begin, time.time()), result

    return timed
