"""Spread independent units of work over workers: what is common to a map in this process and one over a cluster."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

MakeWorker = Callable[[], Callable[[Any], Any]]

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Growing:
    """Items that arrive while earlier ones are worked on, batch after batch; an empty batch means none for now."""

    batches: Iterator[Sequence[Any]]


Items = Sequence[Any] | Growing


@dataclass(frozen=True)
class WorkerResources:
    """How many workers a map may have, and what each of them holds."""

    num_workers: int = 1
    num_cpus: float = 1
    num_gpus: float = 0
    same_node: bool = False  # keep the workers on the caller's machine (to reach a loopback server)
    num_while_growing: int | None = None  # workers while items may still arrive; None: num_workers
    idle_seconds: float = 600.0  # workers without an item for so long are ended
    idle_seconds_at_first: float = 60.0  # before any item has come: who is to make it may wait for their room
    heartbeat_timeout: float = 30.0  # seconds without a sign of life after which a worker counts as lost
    stage_timeout: float = 3600.0  # seconds at one item after which a worker counts as standing still
    max_tries: int = 3  # workers that an item may take down before it is set aside
    grows: bool = False  # whether nodes that come while it runs get further workers
    room_at_first: int | None = None  # for workers, when their number was chosen; None: when the map begins


class Mapper(Protocol):
    """Apply a worker to every item, in any order.

    ``make_worker`` is called once in each worker process (load models there) and returns the function that is
    called once per item. Both it and the items are pickled. An exception in one item is raised after the other items
    are done; an exception of ``make_worker`` or of growing items is raised at once. An item whose worker is lost goes
    to another worker, so it may be worked on more than once.
    """

    def __call__(self, make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
        """Yield the results in the order in which they finish."""
        ...


@dataclass
class Task:
    """An item, and the workers that it was lost with."""

    item: Any
    losses: list[str] = field(default_factory=list)
    """Why each of them was lost."""
    num_unheard: int = 0
    """Further workers that were lost with it, and may have been gone before it was given to them."""

    @property
    def is_given_again(self) -> bool:
        """Whether a worker that was lost may have begun, or finished, it."""
        return bool(self.losses or self.num_unheard)


class Inbox:
    """The items that wait for a worker."""

    def __init__(self, items: Items) -> None:
        self._batches = items.batches if isinstance(items, Growing) else None
        self.waiting: deque[Task] = deque(map(Task, () if isinstance(items, Growing) else items))

    @property
    def grows(self) -> bool:
        """Whether more items may arrive."""
        return self._batches is not None

    def poll(self) -> bool:
        """Take in what has arrived, and return whether items wait or may still arrive."""
        if self._batches is not None:
            batch = next(self._batches, None)
            if batch is None:
                self._batches = None
            else:
                self.waiting.extend(map(Task, batch))
        return self.grows or bool(self.waiting)


def map_in_process(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
    """Run the map in this process, one item after another: for unit tests and debugging."""
    inbox = Inbox(items)
    worker: Callable[[Any], Any] | None = None
    first_error = None
    while inbox.poll():
        if not inbox.waiting:
            time.sleep(POLL_SECONDS)
            continue
        worker = worker or make_worker()
        try:
            result = worker(inbox.waiting.popleft().item)
        except Exception as error:  # noqa: BLE001  raised below, when the other items are done
            first_error = first_error or error
        else:
            yield result
    if first_error is not None:
        raise first_error
