"""How many workers a map may have while nodes come: those of its beginning, and those that new nodes have room for."""

import time

from cluster.machines import Node, declared_nodes, present_nodes, room_for
from cluster.mapping import WorkerResources

_RECOUNT_SECONDS = 5.0


class Growth:
    """Looks at the cluster now and then; a map whose number of workers was fixed does not grow."""

    def __init__(self, resources: WorkerResources) -> None:
        self._resources = resources
        self._next_count = 0.0
        self._more = 0
        self._is_scaled = False
        self._is_mixed = False
        if resources.grows:
            known = resources.room_at_first  # nodes that came since then are further ones also where a map begins anew
            self._at_first = self._room(present_nodes()) if known is None else known
            self._next_count = time.monotonic() + _RECOUNT_SECONDS
            self._is_scaled = bool(declared_nodes())

    def more(self, ready: int, asked: int) -> int:
        """Return how many workers more than at first there may be; ``ready`` of those ``asked`` for have started.

        Where an autoscaler is at work, further ones are asked for as soon as all have started: it brings nodes for
        those that wait. Few in a cluster with GPU nodes, since Ray puts them there where no other node has room.
        """
        if not self._resources.grows:
            return 0
        if time.monotonic() >= self._next_count:
            self._next_count = time.monotonic() + _RECOUNT_SECONDS
            nodes = present_nodes()
            self._is_mixed = any(node.gpus for node in nodes) and not self._resources.num_gpus
            self._more = max(0, self._room(nodes) - self._at_first)
        placed = self._resources.num_workers + self._more
        if not self._is_scaled or ready < asked or ready > placed:
            return self._more
        return self._more + (1 if self._is_mixed else max(1, ready // 2))

    def _room(self, nodes: list[Node]) -> int:
        return room_for(nodes, self._resources.num_cpus, self._resources.num_gpus)
