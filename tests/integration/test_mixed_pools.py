"""Nodes of different kinds, and nodes that come while a stage runs."""

import contextlib
import time
import urllib.request
from functools import partial

import ray
from ray.cluster_utils import Cluster

from cluster.machines import Node, machines_now
from cluster.mapping import WorkerResources
from cluster.metrics import count, label_process
from cluster.pool import map_on_ray
from pipeline.measured import MeasuredObserver
from pipeline.results import StageResult
from stages.contract.events import Event, Metrics, Progress
from tests.pool_workers import make_slow


def test_a_map_uses_the_nodes_that_come_and_leaves_gpu_nodes_to_gpu_work(nodes: Cluster) -> None:
    first = nodes.add_node(num_cpus=1)
    with_gpu = nodes.add_node(num_cpus=2, num_gpus=1)
    nodes.wait_for_nodes()
    machines = machines_now()
    assert sorted(machines.nodes, key=lambda node: (node.cpus, node.gpus)) == [Node(0), Node(1), Node(2, 1)]
    assert machines.cpus_without_gpus == 1
    resources, make_work = WorkerResources(num_workers=machines.cpus_without_gpus, grows=True), partial(make_slow, 0.4)
    came = None
    seen: list[str] = []
    for _, _, node in map_on_ray(make_work, range(600), resources):
        seen.append(node)
        if came is None:
            came = nodes.add_node(num_cpus=2)
            # All of the GPU node is there for what uses the GPU, while the map runs on.
            gpu_work = map_on_ray(make_work, range(2), WorkerResources(num_cpus=2, num_gpus=1))
            assert {node for _, _, node in gpu_work} == {with_gpu.node_id}
        elif seen.count(came.node_id) > 10:  # however late its workers start
            break
    assert came is not None
    assert set(seen) == {first.node_id, came.node_id}
    assert seen.count(came.node_id) > 10


class Nobody:
    """An observer that keeps what it is given to itself."""

    def started(self, *_: object) -> None: ...

    def event(self, name: str, event: Event) -> None: ...

    def finished(self, result: StageResult) -> None: ...


def test_measurements_are_on_ray_s_endpoint(nodes: Cluster) -> None:
    observer = MeasuredObserver(Nobody(), "run-1")
    observer.event("embed_clip", Progress(2, 8, "shards", items=200))
    observer.event("train_prior", Metrics({"loss": 0.25, "learning_rate": 1.0}, step=40))
    observer.event("train_prior", Metrics({"loss": float("nan")}, step=41))
    label_process("run-1", "embed_clip")
    count("corgi_workers_lost")
    expected = {
        'ray_corgi_units_done{stage="embed_clip"} 2.0',
        'ray_corgi_items_done{stage="embed_clip"} 200.0',
        'ray_corgi_loss{stage="train_prior"} 0.25',
        'ray_corgi_step{stage="train_prior"} 41.0',
        'ray_corgi_workers_lost_total{stage="embed_clip"} 1.0',
    }
    deadline = time.monotonic() + 300
    while not expected <= (found := _measured("run-1")):
        assert time.monotonic() < deadline, (expected - found, found)
        time.sleep(1)


def _measured(run: str) -> set[str]:
    """Return our own measurements at the endpoints of all nodes, with no labels but the stage."""
    found = set()
    for node in ray.nodes():
        if node["Alive"]:
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            lines: list[str] = []
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as reply:  # not yet
                lines = reply.read().decode().splitlines()
            for line in (one for one in lines if one.startswith("ray_corgi") and f'run="{run}"' in one):
                name, _, rest = line.partition("{")
                stage = rest.partition('stage="')[2].partition('"')[0]
                found.add(f'{name}{{stage="{stage}"}} {rest.rpartition(" ")[2]}')
    return found
