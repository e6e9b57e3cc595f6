"""Wait for the nodes of a Ray cluster, then run a command: ``python -m cluster.nodes COUNT [COMMAND…]``.

The cluster's address is that of RAY_ADDRESS, which Ray sets in its jobs.
"""

import os
import sys
import time

from cluster.authentication import authentication_at, find_token
from cluster.errors import ClusterError, NotStarted

SECONDS = 600.0
_POLL_SECONDS = 1.0


def wait_for_nodes(address: str, count: int, seconds: float = SECONDS) -> None:
    """Return once a cluster has so many living nodes.

    Raises:
        NotStarted: it does not in time; the message holds the last that was seen of it.
    """
    deadline = time.monotonic() + seconds
    seen = "nothing responds"
    while time.monotonic() < deadline:
        alive = _count_nodes(address)
        if isinstance(alive, int) and alive >= count:
            return
        seen = f"{alive} of {count} nodes are there" if isinstance(alive, int) else alive
        time.sleep(_POLL_SECONDS)
    raise NotStarted(
        f"cluster: the Ray cluster at {address!r} is not complete after {seconds:.0f} s ({seen}): "
        "read the nodes' own output for why they did not join, and start it again"
    )


def _count_nodes(address: str) -> int | str:
    """Return the number of living nodes, or why nothing is known of them."""
    token = find_token()
    state = authentication_at(address, token[0] if token else None)
    if state != "open":  # Ray's own client would try for most of a minute
        return "nothing responds" if state == "unknown" else "it asks for another token than there is here"
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.exceptions import RayError

    try:
        found = GcsClient(address=address).get_all_node_info(timeout=5)
    except (RayError, OSError, RuntimeError) as error:
        return str(error).strip().partition("\n")[0]
    return sum(int(node.state == 0) for node in found.values())  # GcsNodeInfo's ALIVE


def main(arguments: list[str]) -> None:
    """Wait, then become the command, where there is one."""
    address = os.environ.get("RAY_ADDRESS")
    if not arguments or not arguments[0].isdecimal() or not address:
        sys.stderr.write(
            "cluster.nodes: give the number of nodes to wait for, and the cluster's address in RAY_ADDRESS\n"
        )
        sys.exit(2)
    try:
        wait_for_nodes(address, int(arguments[0]))
    except ClusterError as error:
        sys.exit(f"cluster.nodes: {error}")
    if command := arguments[1:]:
        os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
