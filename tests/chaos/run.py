"""A run as a user starts it: ``corgi run`` in a process of its own, and the processes below it by what they do."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
#: How the command line of a process begins that does a certain work.
ROLES: Mapping[str, tuple[str, ...]] = {
    "shard worker": ("ray::_Worker",),
    "training worker": ("ray::RayTrainWorker",),
    "training controller": ("ray::TrainController",),
    "mailbox": ("ray::_Mailbox",),
    "stage": ("ray::download_shards", "ray::embed_clip", "ray::fit_gaussians", "ray::train_prior"),
}
#: Programs of Ray, by the name of their file.
PROGRAMS = ("raylet", "gcs_server")


class Run:
    """The process of a run, and all that it starts."""

    def __init__(self, words: Sequence[str], *, environment: Mapping[str, str], log: Path, within: Sequence[str] = ()):
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", "pipeline", "run", *words],
            cwd=ROOT, env=dict(environment), stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        self._seen: dict[tuple[int, float], psutil.Process] = {}

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def tree(self) -> list[psutil.Process]:
        """Return all processes below the run's, itself included, and remember them."""
        with contextlib.suppress(psutil.Error):
            own = psutil.Process(self.process.pid)
            for one in [own, *own.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    self._seen.setdefault((one.pid, one.create_time()), one)
        return [one for one in self._seen.values() if one.is_running()]

    def having(self, role: str) -> list[psutil.Process]:
        """Return the processes that do a work now, or (``driver``) the run's own."""
        tree = self.tree()
        if role == "driver":
            return [one for one in tree if one.pid == self.process.pid]
        return [one for one in tree if _does(one, role)]

    def survivors(self, seconds: float) -> list[psutil.Process]:
        """Return the processes that are still there so long after the run's end."""
        below = [one for one in self.tree() if one.pid != self.process.pid]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)  # here alone: another's wait would take its exit code away
        _, alive = psutil.wait_procs(below, timeout=seconds)
        return [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def end(self) -> None:
        """Kill whatever is left of it."""
        for one in self.tree():
            with contextlib.suppress(psutil.Error):
                one.kill()
        self.process.wait(timeout=60)
        self._log.close()


def _does(process: psutil.Process, role: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    first = words[0] if words else ""
    if role in PROGRAMS:
        return os.path.basename(first) == role
    if role == "decoder":
        return "cluster.isolated_child" in " ".join(words)
    return first.startswith(ROLES[role])


def kill_tree(pid: int) -> None:
    """Kill a process that was started here, and all below it."""
    with contextlib.suppress(psutil.Error):
        own = psutil.Process(pid)
        for one in [own, *own.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                one.kill()
