"""Prefetch a bounded number of batches in a background thread, and measure how long training waits for them."""

import queue
import threading
import time
from collections.abc import Iterator

from stages.training.task import Batch, BatchPart, RankInfo, TrainTask


class Loader:
    """Yields the batches of the steps in order, each as ``num_parts`` parts for this process."""

    def __init__(
        self,
        task: TrainTask,
        rank_info: RankInfo,
        *,
        batch_size: int,
        num_parts: int,
        steps: range,
        skipped: int,
        prefetch: int,
    ) -> None:
        """Begin to prepare the batches of ``steps``, whose samples are ``skipped`` steps ahead of them."""
        self.wait_seconds = 0.0
        self._task = task
        self._rank_info = rank_info
        self._batch_size = batch_size
        self._num_parts = num_parts
        self._skipped = skipped
        self._queue: queue.Queue[Batch | Exception] = queue.Queue(maxsize=prefetch)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(steps,), name="corgi-loader", daemon=True)
        self._thread.start()

    def step(self) -> Iterator[Batch]:
        """Yield the parts of the next step, on the training device; raise what the task raised."""
        for _ in range(self._num_parts):
            start = time.perf_counter()
            prepared = self._queue.get()
            self.wait_seconds += time.perf_counter() - start
            if isinstance(prepared, Exception):
                raise prepared
            yield {name: tensor.to(self._rank_info.device, non_blocking=True) for name, tensor in prepared.items()}

    def close(self) -> None:
        """Stop the thread and drop its batches."""
        self._stopping.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _run(self, steps: range) -> None:
        try:
            for step in steps:
                for part in self._parts_of(step):
                    if self._stopping.is_set():
                        return
                    self._queue.put(self._pinned(self._task.prepare(part)))
        except Exception as error:  # noqa: BLE001  raised again where the batch is asked for
            self._queue.put(error)

    def _parts_of(self, step: int) -> Iterator[BatchPart]:
        return parts_of(step, self._batch_size, self._num_parts, self._rank_info, skipped=self._skipped)

    def _pinned(self, batch: Batch) -> Batch:
        """Pin the batch's memory, so that a GPU copies it without blocking this process."""
        if self._rank_info.device.type != "cuda":
            return batch
        return {name: tensor.pin_memory() for name, tensor in batch.items()}


def parts_of(
    step: int, batch_size: int, num_parts: int, rank_info: RankInfo, *, skipped: int = 0
) -> Iterator[BatchPart]:
    """Yield this process's parts of the global batch of a step, whose samples are ``skipped`` steps ahead of it."""
    count = batch_size // (rank_info.world_size * num_parts)
    for part in range(num_parts):
        yield BatchPart(step, (rank_info.rank * num_parts + part) * count, count, batch_size, skipped)
