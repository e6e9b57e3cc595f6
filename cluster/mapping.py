"""Spread independent units of work over workers: in this process, or over a Ray cluster.

Ray itself restarts dead actors and retries their items (max_restarts, max_task_retries). The pool around them is ours:
ray.util.ActorPool gives items to actors that Ray has no room for yet, and cannot wait for these; Ray Data's map_batches
keeps an idle actor while items may still arrive, and drops the exceptions of failed items.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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


class Mapper(Protocol):
    """Apply a worker to every item, in any order.

    ``make_worker`` is called once in each worker process (load models there) and returns the function that is
    called once per item. Both it and the items are pickled. An exception in one item is raised after the other items
    are done; an exception of ``make_worker`` or of growing items is raised at once.
    """

    def __call__(self, make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
        """Yield the results in the order in which they finish."""
        ...


class _Inbox:
    """The items that wait for a worker."""

    def __init__(self, items: Items) -> None:
        self._batches = items.batches if isinstance(items, Growing) else None
        self.waiting: deque[Any] = deque(() if isinstance(items, Growing) else items)

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
                self.waiting.extend(batch)
        return self.grows or bool(self.waiting)


def map_in_process(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
    """Run the map in this process, one item after another: for unit tests and debugging."""
    inbox = _Inbox(items)
    worker: Callable[[Any], Any] | None = None
    first_error = None
    while inbox.poll():
        if not inbox.waiting:
            time.sleep(POLL_SECONDS)
            continue
        worker = worker or make_worker()
        try:
            result = worker(inbox.waiting.popleft())
        except Exception as error:  # noqa: BLE001  raised below, when the other items are done
            first_error = first_error or error
        else:
            yield result
    if first_error is not None:
        raise first_error


def map_on_ray(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
    """Run the map on a pool of Ray actors; an actor that dies is restarted and its item retried twice."""
    inbox, pool = _Inbox(items), _Pool(make_worker, resources)
    first_error: BaseException | None = None
    try:
        while inbox.poll() or pool.busy:
            pool.enlarge(inbox)
            pool.dispatch(inbox)
            done = list(pool.wait(POLL_SECONDS if inbox.grows else None))
            pool.dispatch(inbox)  # before the results are handled, so that no actor waits for that
            for result, error in done:
                if error is not None:
                    first_error = first_error or error
                else:
                    yield result
    finally:
        pool.release()
    if first_error is not None:
        raise first_error


class _Pool:
    """The actors of a map; those that Ray has no room for yet hold no item."""

    def __init__(self, make_worker: MakeWorker, resources: WorkerResources) -> None:
        self._make_worker, self._resources = make_worker, resources
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._is_fresh = True
        self._last_work = time.monotonic()
        self.busy: dict[Any, Any] = {}

    def enlarge(self, inbox: _Inbox) -> None:
        """Start as many actors as there is work for; all at first while items may still arrive, to be ready."""
        limit = self._resources.num_workers
        if inbox.grows and self._resources.num_while_growing is not None:
            limit = self._resources.num_while_growing
        wanted = limit if inbox.grows and self._is_fresh else min(limit, len(self.busy) + len(inbox.waiting))
        for _ in range(wanted - len(self._starting) - len(self._idle) - len(self.busy)):
            actor = _start_actor(self._make_worker, self._resources)
            self._starting[actor.prepare.remote()] = actor

    def dispatch(self, inbox: _Inbox) -> None:
        """Give an item to every idle actor; end all actors after a long time without items, to free their resources."""
        while self._idle and inbox.waiting:
            actor = self._idle.pop()
            self.busy[actor.work.remote(inbox.waiting.popleft())] = actor
        if self.busy:
            self._last_work = time.monotonic()
        elif inbox.grows and not inbox.waiting and time.monotonic() - self._last_work > self._resources.idle_seconds:
            self._is_fresh = False
            self.release()

    def wait(self, timeout: float | None) -> Iterator[tuple[Any, BaseException | None]]:
        """Wait for an actor to be done or ready; yield its result, or the item's error."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        refs = [*self.busy, *self._starting]
        if not refs:
            time.sleep(timeout or 0)
            return
        for ref in ray.wait(refs, num_returns=1, timeout=timeout)[0]:
            is_ready = ref in self._starting
            actor = self._starting.pop(ref) if is_ready else self.busy.pop(ref)
            self._idle.append(actor)
            try:
                result = ray.get(ref)
            except RayTaskError as error:
                error.cause.add_note(str(error))
                if is_ready:
                    raise error.cause from None
                yield None, error.cause
            except RayActorError as error:  # it died again at each retry: its restarts are used up
                self._idle.remove(actor)
                if is_ready:
                    raise
                yield None, error
            else:
                if not is_ready:
                    yield result, None

    def release(self) -> None:
        """End all actors, whatever they are doing."""
        import ray

        for actor in (*self._idle, *self._starting.values(), *self.busy.values()):
            ray.kill(actor)
        self._starting, self._idle, self.busy = {}, [], {}


def _start_actor(make_worker: MakeWorker, resources: WorkerResources) -> Any:
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
        self._make_worker = make_worker
        self._worker: Callable[[Any], Any] | None = None

    def prepare(self) -> None:
        """Make the worker; in the constructor, its errors would reach the caller without their type."""
        self._made()

    def work(self, item: Any) -> Any:
        """Handle one item."""
        return self._made()(item)

    def _made(self) -> Callable[[Any], Any]:
        if self._worker is None:  # also after Ray has restarted the process
            self._worker = self._make_worker()
        return self._worker
