"""A Ray cluster of several raylets on this machine, each a node of its own."""

import os
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.ports import free_port


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head without room for workers; tests add and remove the other nodes."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.getcwd())
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": free_port()})
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()
