"""Two nodes of a Ray cluster, with networks of their own where that is allowed: one is killed, or cut off."""

import contextlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from tests.chaos.fault import DATA, TRAINING, InFolder, Injection, NotHere, Setting
from tests.chaos.run import kill_tree
from tests.chaos.world import World
from tests.network_nodes import ADDRESSES, Networks, can_be_made

_PORT = 26379
_STARTING = 90.0  # seconds
#: A training group with a process on each node, which goes on with one.
_SPREAD = tuple(f"train_prior.resources.{word}" for word in ("num_workers=2", "cpus_per_worker=2", "wait_for_nodes=20"))
_nodes: dict[int, "Nodes"] = {}


class Nodes:
    """A head, on which the driver runs, and another node."""

    def __init__(self, world: World) -> None:
        self._networks = Networks()
        self._folder = Path(tempfile.mkdtemp(prefix="cr-", dir="/tmp"))
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._variables = world.environment(self.environment)
        self._started: list[subprocess.Popen[bytes]] = []
        self.address = f"{ADDRESSES[0]}:{_PORT}"

    def within(self, node: int) -> list[str]:
        return self._networks.within(node)

    def start(self) -> None:
        self._networks.make()
        self.start_node(0)
        self.start_node(1)

    def start_node(self, node: int) -> None:
        """Start Ray on a node, and wait until it has joined."""
        joining = (
            ["--head", f"--port={_PORT}", "--include-dashboard=false"] if node == 0 else [f"--address={self.address}"]
        )
        command = [
            *self.within(node), str(Path(sys.executable).with_name("ray")), "start", *joining, "--block",
            f"--node-ip-address={ADDRESSES[node]}", "--num-cpus=2", "--disable-usage-stats",
            *([f"--temp-dir={self._folder}"] if node == 0 else []),
        ]  # fmt: skip
        log = (self._folder / f"log{node}").open("ab")
        started = subprocess.Popen(command, env=self._variables, stdout=log, stderr=log, start_new_session=True)
        self._started.append(started)
        wait = [*self.within(0), sys.executable, "-m", "cluster.nodes", str(node + 1), "true"]
        variables = self._variables | {"RAY_ADDRESS": self.address}
        until = time.monotonic() + _STARTING
        while subprocess.run(wait, env=variables, capture_output=True, check=False, timeout=_STARTING).returncode:
            if time.monotonic() > until:
                raise RuntimeError(f"node {node} did not start: {(self._folder / f'log{node}').read_text()[-2000:]}")
            time.sleep(1)

    def kill_node(self) -> None:
        """Kill all processes of the second node."""
        kill_tree(self._started[-1].pid)

    def cut(self, seconds: float) -> None:
        """Cut the network between the nodes for some seconds."""
        self._networks.cut(seconds)

    def end(self) -> None:
        for one in self._started:
            kill_tree(one.pid)
            one.wait()
        self._networks.remove()
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True)
class NodeFault(InFolder):
    """The second node is killed, or (``seconds``) cut off for a while."""

    name: str
    seconds: float | None
    times: int = 1
    makes: tuple[str, ...] = DATA
    when: Literal["before", "during"] = "during"

    @contextlib.contextmanager
    def setting(self, world: World) -> Iterator[Setting]:
        if not can_be_made():
            raise NotHere("networks of their own can be made by root alone, with iproute2")
        nodes = Nodes(world)
        try:
            nodes.start()
            with world.store(without=self.makes) as view:
                where = (f"cluster.address={nodes.address}", "cluster.num_cpus=null")
                words = where + (_SPREAD if self.makes == TRAINING else ())
                environments: tuple[Mapping[str, str], ...] = (nodes.environment,)
                setting = Setting(world, view, words, environments, within=tuple(nodes.within(0)))
                _nodes[id(setting)] = nodes
                yield setting
        finally:
            nodes.end()

    def inject(self, setting: Setting, rng: Random) -> Injection | None:
        nodes: Any = _nodes[id(setting)]
        if self.seconds is None:
            nodes.kill_node()
            return Injection("the second node is killed")
        nodes.cut(self.seconds)
        return Injection(f"the second node is cut off for {self.seconds:g} s")


FAULTS = (
    NodeFault("kill a node", None),
    NodeFault("cut the network between nodes for 10 s", 10.0, times=2),
    NodeFault("cut the network between nodes for good", 3600.0),
    NodeFault("kill a node in training", None, makes=TRAINING),
    NodeFault("cut the network in training for 10 s", 10.0, makes=TRAINING),
    NodeFault("cut the network in training for good", 3600.0, makes=TRAINING),
)
