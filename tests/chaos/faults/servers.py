"""Servers that go away for a while: the store's, and the tracking server."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Literal
from urllib.parse import urlsplit

from tests.chaos.door import Door, door_to
from tests.chaos.fault import DATA, InFolder, Injection, Setting
from tests.chaos.run import kill_tree
from tests.chaos.stores import BucketView
from tests.chaos.world import World
from tests.ports import free_port
from tests.s3_server import serve_s3

PATIENCE = 15.0  # minutes
_WORKERS = 3  # of a stage, each of which may be writing a record
_doors: dict[int, Door] = {}


@contextlib.contextmanager
def bucket_setting(world: World, homes: int = 1) -> Iterator[Setting]:
    """Yield a store on a server of S3's protocol, behind a door; each of the drivers has a home of its own."""
    with serve_s3() as server, door_to(urlsplit(server.endpoint).port or 0) as door:
        behind = replace(server, endpoint=f"http://127.0.0.1:{door.port}")
        common = server.environment | behind.environment
        environments = []
        for number in range(homes):
            home = world.scratch / f"home-{number}"
            home.mkdir(exist_ok=True)
            environments.append({**common, "HOME": str(home)})
        words = (f"storage.patience={PATIENCE}", f"storage.cache={world.scratch / 'cache'}")
        setting = Setting(world, BucketView(server, server.uri()), words=words, environments=tuple(environments))
        _doors[id(setting)] = door
        try:
            yield setting
        finally:
            del _doors[id(setting)]


def door_of(setting: Setting) -> Door:
    """Return the door before a setting's server."""
    return _doors[id(setting)]


@dataclass(frozen=True)
class ServerAway(InFolder):
    """The server of the store, or (``tracking``) of MLflow, is away for some seconds."""

    name: str
    seconds: float
    tracking: bool = False
    times: int = 3
    longest: float = 420.0
    makes: tuple[str, ...] = DATA
    when: Literal["before", "during"] = "during"

    @contextlib.contextmanager
    def setting(self, world: World) -> Iterator[Setting]:
        with _tracking_setting(world) if self.tracking else bucket_setting(world) as setting:
            yield setting

    def inject(self, setting: Setting, rng: Random) -> Injection | None:
        door = door_of(setting)
        if not door.is_open:
            return None
        door.shut()
        timer = threading.Timer(self.seconds, door.open)
        timer.daemon = True
        timer.start()
        return Injection(f"away for {self.seconds:g} s", unanswered=0 if self.tracking else _WORKERS)


@contextlib.contextmanager
def _tracking_setting(world: World) -> Iterator[Setting]:
    with world.store(without=DATA) as view, _mlflow(world) as port, door_to(port) as door:
        setting = Setting(world, view, words=(f"tracking.uri=http://127.0.0.1:{door.port}",))
        _doors[id(setting)] = door
        try:
            yield setting
        finally:
            del _doors[id(setting)]


@contextlib.contextmanager
def _mlflow(world: World) -> Iterator[int]:
    port = free_port()
    folder = world.scratch / "mlflow"
    folder.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", str(folder),
    ]  # fmt: skip
    log = (folder / "log").open("wb")
    environment = os.environ | {"HOME": str(folder), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
        try:
            _wait_for(port)
            yield port
        finally:
            kill_tree(process.pid)


def _wait_for(port: int, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.2)
    raise RuntimeError("the tracking server did not start")


FAULTS = (
    ServerAway("S3 server away for 1 s", 1.0, times=8),
    ServerAway("tracking server away for 1 s", 1.0, tracking=True, times=8),
    ServerAway("S3 server away for 10 s", 10.0, times=3),
    ServerAway("S3 server away for 60 s", 60.0, times=1),
    ServerAway("S3 server away for 5 min", 300.0, times=1, longest=900.0),
    ServerAway("tracking server away for 5 s", 5.0, tracking=True, times=4),
    ServerAway("tracking server away for good", 3600.0, tracking=True, times=1),
)
