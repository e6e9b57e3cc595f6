"""Two nodes of a Ray cluster, with networks of their own where that is allowed: one is killed, or cut off."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from tests.chaos.fault import DATA, InFolder, Injection, NotHere, Setting
from tests.chaos.run import kill_tree
from tests.chaos.world import World

_ADDRESSES = ("10.213.77.1", "10.213.77.2")
_PORT = 26379
_STARTING = 90.0  # seconds
_nodes: dict[int, "Nodes"] = {}


class Nodes:
    """A head, on which the driver runs, and another node."""

    def __init__(self, world: World) -> None:
        self._name = f"cc{os.getpid() % 100_000}"
        self._folder = Path(tempfile.mkdtemp(prefix="cr-", dir="/tmp"))
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._variables = world.environment(self.environment)
        self._started: list[subprocess.Popen[bytes]] = []
        self.address = f"{_ADDRESSES[0]}:{_PORT}"

    def within(self, node: int) -> list[str]:
        return ["ip", "netns", "exec", f"{self._name}{node}"]

    def start(self) -> None:
        names = [f"{self._name}{node}" for node in (0, 1)]
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, _ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", name, "link", "set", link, "up")
        self.start_node(0)
        self.start_node(1)

    def start_node(self, node: int) -> None:
        """Start Ray on a node, and wait until it has joined."""
        joining = (
            ["--head", f"--port={_PORT}", "--include-dashboard=false"] if node == 0 else [f"--address={self.address}"]
        )
        command = [
            *self.within(node), str(Path(sys.executable).with_name("ray")), "start", *joining, "--block",
            f"--node-ip-address={_ADDRESSES[node]}", "--num-cpus=2", "--disable-usage-stats",
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
        link = ("-n", f"{self._name}1", "link", "set", "eth0")
        _ip(*link, "down")
        timer = threading.Timer(seconds, lambda: _ip(*link, "up", check=False))
        timer.daemon = True
        timer.start()

    def end(self) -> None:
        for one in self._started:
            kill_tree(one.pid)
            one.wait()
        for node in (0, 1):
            _ip("netns", "delete", f"{self._name}{node}", check=False)
        shutil.rmtree(self._folder, ignore_errors=True)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


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
        if not (world.isolated and shutil.which("ip")):
            raise NotHere("networks of their own can be made by root alone, with iproute2")
        nodes = Nodes(world)
        try:
            nodes.start()
            with world.store(without=self.makes) as view:
                words = (f"cluster.address={nodes.address}", "cluster.num_cpus=null")
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
)
