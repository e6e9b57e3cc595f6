"""A training group as plain processes on this machine, forked from one that has imported everything already.

Started afresh, or under Ray Train, each process would import torch, DeepSpeed and (for any optimiser) torch._dynamo
again, which takes longer than what tests train.
"""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from cluster.training import TrainFunction, TrainGroup, rank_environment
from tests.ports import free_port


def launch_in_forks(
    function: TrainFunction,
    payload: Any,
    group: TrainGroup,
    emit: Callable[[Any], None],
    progress: Callable[[], int] = lambda: 0,
) -> None:
    """Run the function once in every process of the group; raise what any of them raised."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.warm"])
    messages, port = context.Queue(), free_port()
    processes = [
        context.Process(target=_run, args=(function, payload, (rank, group.num_workers), port, messages))
        for rank in range(group.num_workers)
    ]
    for process in processes:
        process.start()
    failures: list[Exception] = []
    running = len(processes)
    while running:
        kind, value = messages.get(timeout=300)
        running -= kind == "end"
        if kind == "event":
            emit(value)
        if kind == "failure":
            failures.append(value)
    for process in processes:
        process.join()
    if failures:
        raise failures[0]


def _run(function: TrainFunction, payload: Any, ranks: tuple[int, int], port: int, messages: Any) -> None:
    rank, world_size = ranks
    os.environ.update(rank_environment(rank, world_size, rank, "127.0.0.1", port))
    try:
        function(payload, lambda event: messages.put(("event", event)))
    except Exception as error:  # noqa: BLE001  raised again by the caller
        messages.put(("failure", error))
    finally:
        messages.put(("end", rank))
