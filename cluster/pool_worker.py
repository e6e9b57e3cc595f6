"""One process of a pool: an actor that works in one thread and gives signs of life in another."""

from collections.abc import Callable
from typing import Any

from cluster.item_progress import begin_item, samples_of_item
from cluster.losses import memory_kills
from cluster.mapping import MakeWorker, WorkerResources
from cluster.rank_link import process_stack
from cluster.workers import machine_name

_SIGNS = "signs"
_STACK_SECONDS = 5.0  # to wait for the stack of a worker that stands still


def start_worker(make_worker: MakeWorker, resources: WorkerResources) -> Any:
    """Start an actor, once Ray has room for it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "concurrency_groups": {_SIGNS: 1},  # a thread beside the one that works
    }
    if resources.same_node:
        node = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(**options)(_Worker).remote(make_worker)


class _Worker:
    """A process of the pool: makes its worker once, then serves items."""

    def __init__(self, make_worker: MakeWorker) -> None:
        self._make_worker = make_worker
        self._worker: Callable[[Any], Any] | None = None

    def prepare(self) -> None:
        """Make the worker; in the constructor, its errors would reach the caller without their type."""
        self._worker = self._make_worker()

    def work(self, item: Any, *, is_given_again: bool) -> Any:
        """Handle one item; ``is_given_again``: a worker was lost at it."""
        assert self._worker is not None
        begin_item(is_given_again=is_given_again)
        return self._worker(item)

    def ping(self) -> tuple[str, int, str, int]:
        """Give a sign of life: the node, how many processes the system has killed for memory there, its name, and how
        many samples of the present item are done.
        """
        import ray

        machine = machine_name(ray.util.get_node_ip_address())
        return ray.get_runtime_context().get_node_id(), memory_kills(), machine, samples_of_item()

    def stack(self) -> str:
        """Return what every thread of the process is doing."""
        return process_stack()


def ask_for_sign(actor: Any) -> Any:
    """Return the reference of a call that is done when the process has answered."""
    return actor.ping.options(concurrency_group=_SIGNS).remote()


def stack_of(actor: Any) -> str:
    """Return what every thread of the process is doing."""
    import ray

    try:
        return str(ray.get(actor.stack.options(concurrency_group=_SIGNS).remote(), timeout=_STACK_SECONDS))
    except ray.exceptions.RayError:
        return "(it does not answer)"
