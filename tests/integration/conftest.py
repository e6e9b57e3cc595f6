"""A Ray of this process alone, and a cluster of several raylets on this machine, each a node of its own."""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray._private import services
from ray.cluster_utils import Cluster

from cluster.session import session
from tests.ports import free_port

_GET_NODE = services.get_node

LONGEST_START = 150.0  # seconds of a node's start on a busy machine; Ray gives it thirty


def _await_node(gcs_address: str, node_id: str) -> Any:
    """Return what Ray knows of a node, once it does."""
    until = time.monotonic() + LONGEST_START
    while True:
        try:
            return _GET_NODE(gcs_address, node_id)
        except RuntimeError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Two CPUs, as a run on this machine has them; its processes import what tests do."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.getcwd())
        with session(None, num_cpus=2):
            yield


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head without room for workers; tests add and remove the other nodes."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.getcwd())
        environment.setenv("RAY_gcs_server_port_wait_time_s", str(int(LONGEST_START)))
        environment.setattr(services, "get_node", _await_node)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": free_port()})
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()
