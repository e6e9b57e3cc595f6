"""What a cluster has, and what its autoscaler may add."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

_UNLIMITED = 1_000_000  # nodes of a group that has no maximum
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """The resources of a node, or of each of several that are alike."""

    cpus: int
    gpus: float = 0
    count: int = 1

    def holds(self, cpus: float, gpus: float) -> int:
        """Return for how many workers of this size they have room, each worker on one node."""
        by_cpus = int(self.cpus / cpus) if cpus else _UNLIMITED
        return self.count * min(by_cpus, int(self.gpus / gpus) if gpus else _UNLIMITED)


@dataclass(frozen=True)
class Machines:
    """The resources of the connected cluster in all, and of its largest node.

    ``nodes`` are its nodes one by one, where that is known; ``declared`` is what an autoscaler may bring in all.
    """

    num_cpus: int
    num_gpus: float
    node_cpus: int
    nodes: tuple[Node, ...] = ()
    declared: tuple[Node, ...] = ()

    @classmethod
    def of(cls, present: list[Node], declared: list[Node]) -> "Machines":
        """Add nodes up; of a kind of resource that none of them has, one declared node counts as if it was there."""
        nodes = [*present]
        for has in (_has_gpus, _has_cpus):
            if not any(map(has, nodes)):
                nodes += [Node(node.cpus, node.gpus) for node in declared if has(node) and node.count][:1]
        return cls(
            num_cpus=sum(node.cpus for node in nodes),
            num_gpus=int(sum(node.gpus for node in nodes)),
            node_cpus=max((node.cpus for node in nodes), default=0),
            nodes=tuple(nodes),
            declared=tuple(declared),
        )

    @property
    def cpus_in_the_end(self) -> int:
        """All CPUs that the cluster has or may get."""
        return max(self.num_cpus, sum(node.cpus * node.count for node in self.declared))

    @property
    def gpus_in_the_end(self) -> float:
        """All GPUs that the cluster has or may get."""
        return max(self.num_gpus, sum(node.gpus * node.count for node in self.declared))

    @property
    def cpus_without_gpus(self) -> int:
        """The CPUs of nodes without GPUs; of a cluster that has none such, all."""
        return sum(node.cpus for node in self.nodes if not node.gpus) or self.num_cpus

    def cpus_beside(self, gpus: float) -> int:
        """Return how many CPUs every node with so many GPUs has beside them."""
        found = [int(node.cpus * min(1.0, gpus / node.gpus)) for node in self.nodes if node.gpus >= gpus > 0]
        return min(found, default=self.node_cpus)

    def holds(self, cpus: float, gpus: float) -> int:
        """Return for how many workers of this size the cluster has room at most, with all that it may get."""
        if not self.nodes:
            return Node(self.num_cpus, self.num_gpus).holds(cpus, gpus) if cpus <= self.node_cpus else 0
        groups = (self.nodes, self.declared)
        return max(sum(node.holds(cpus, gpus) for node in group) for group in groups)


def _has_gpus(node: Node) -> bool:
    return node.gpus > 0


def _has_cpus(node: Node) -> bool:
    return node.cpus > 0


def room_for(nodes: Sequence[Node], cpus: float, gpus: float) -> int:
    """Return for how many workers the nodes have room; those with GPUs are left to workers that use these."""
    plain = [node for node in nodes if not node.gpus]
    usable = nodes if gpus or not any(node.cpus for node in plain) else plain
    return sum(node.holds(cpus, gpus) for node in usable)


def present_nodes() -> list[Node]:
    """Return the living nodes of the cluster that this process is connected to."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(int(held.get("CPU", 0)), held.get("GPU", 0)) for held in alive]


def declared_nodes() -> list[Node]:
    """Return what an autoscaler may bring, by what it has reported to Ray; empty where there is none, or no report."""
    from ray._private.state import state  # Ray has no public function for it

    try:
        config = state.get_cluster_config()
    except Exception as error:  # noqa: BLE001  not public, so it may change: without it, what is there counts
        _log.info("the autoscaler's configuration cannot be read: %s", error)
        return []
    groups = [] if config is None else config.node_group_configs
    return [
        Node(
            int(group.resources.get("CPU", 0)),
            float(group.resources.get("GPU", 0)),
            _UNLIMITED if group.max_count < 0 else int(group.max_count),
        )
        for group in groups
    ]


def machines_now() -> Machines:
    """Return the machines of the cluster that this process is connected to."""
    return Machines.of(present_nodes(), declared_nodes())
