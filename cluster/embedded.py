"""Start Ray inside this process: on loopback alone, in a folder of this user alone, with a token of its own.

What Ray leaves open: its ports answer every user of the machine, and the token keeps them out of its services; the
workers' own gRPC ports, the object store in /dev/shm and the agents' metrics have no other protection than the address.
"""

import contextlib
import functools
import logging
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from cluster import left_behind
from cluster.errors import HeadLost, NotStarted
from cluster.head import head_watched
from cluster.owned_folders import owned_folder
from cluster.signals import keeping_handlers, signals_held_back
from cluster.training import let_threads_sleep
from cluster.variables import restore

LONGEST_SOCKET = 107  # bytes of a unix socket's path (unix(7)), without the closing zero
_SESSION = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")  # what Ray puts after its folder
MOST_FOLDER = LONGEST_SOCKET - _SESSION
WANTED_FILES = 4096  # open files: a raylet takes some hundred, and a few for each worker
FEWEST_FILES = 512
_TOKEN = "RAY_AUTH_TOKEN"
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0" is Ray's word for: a node's address is the loopback one
_SET = ("RAY_AUTH_MODE", _TOKEN, _LOOPBACK, "PYTHONWARNINGS")
_changed: dict[str, tuple[str | None, str | None]] = {}
"""What these variables were before a Ray was started here, and have been since; they stay so for the next one."""
_PREFIX = "corgi-ray-"
_END_SECONDS = 5.0  # for killed processes to be gone
_HEAD = ("raylet", "gcs_server")  # of which each is Ray's only one here: without it, calls of Ray wait for ever
_POLL_SECONDS = 0.5
_STARTS = 3  # Ray gives a start half a minute, which a busy machine may exceed
_AT_ONCE = 20.0  # seconds: what fails sooner does so for another reason, and would again
_UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")  # methods of Ray's node


@contextlib.contextmanager
def embedded_ray(num_cpus: int | None) -> Iterator[None]:
    """Run Ray for the length of the block; within another block, that Ray is used.

    Raises:
        NotStarted: Ray does not start on this machine.
        HeadLost: a process is gone without which this Ray cannot go on; the block was interrupted.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    _set_environment()
    _raise_file_limit()
    with _session_folder() as folder, _ended_with_this_process(folder.parent):
        try:
            with signals_held_back(), keeping_handlers(), _without_unused():
                _start(num_cpus, folder)
            with head_watched(_check_processes, _POLL_SECONDS):
                yield
        except KeyboardInterrupt:
            _check_processes()
            raise
        finally:
            with signals_held_back():
                _end(folder)


def _check_processes() -> None:
    for name, processes in _head_processes().items():
        if any(one.poll() is not None for one in processes):
            raise HeadLost(
                f"cluster: Ray's {name} on this machine was lost; it was killed, or has crashed for want of memory: "
                "look at `dmesg` and at the machine's free memory, and run the same command again; finished work is "
                "kept"
            )


def _head_processes() -> dict[str, list[subprocess.Popen[bytes]]]:
    worker = sys.modules.get("ray._private.worker")
    node = worker._global_node if worker is not None else None
    if node is None:
        return {}
    return {name: [info.process for info in node.all_processes.get(name, ())] for name in _HEAD}


@contextlib.contextmanager
def _ended_with_this_process(folder: Path) -> Iterator[None]:
    """Have what Ray has started ended, should this process be killed in the block."""
    command, none = [sys.executable, "-P", left_behind.__file__, str(folder)], subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=none, stderr=none, start_new_session=True) as program:
        try:
            yield  # until what was started has been ended
        finally:
            program.kill()


def _set_environment() -> None:
    """Set what Ray reads at import and in all of its processes."""
    before = {name: os.environ.get(name) for name in _SET}
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Without a token here, Ray would write one for all sessions into the home folder, which need not be there.
    if not any(name in os.environ for name in (_TOKEN, f"{_TOKEN}_PATH")):
        os.environ[_TOKEN] = secrets.token_hex(32)
    os.environ[_LOOPBACK] = "0"
    let_threads_sleep()
    os.environ.pop("PYTHONWARNINGS", None)  # as "error" it ends Ray's own processes, whose libraries warn
    for name, value in before.items():
        first, ours = _changed.get(name, (value, value))
        _changed[name] = (first if value == ours else value, os.environ.get(name))
    _read_environment_again()


def forget_embedded_ray() -> None:
    """Let this process connect to a cluster as if it had had no Ray of its own: that one's token is not the cluster's.

    Not at the end of the block, in which threads of Ray's may still ask for the token. What the user set since stays.
    """
    if not _changed:
        return
    restore({name: before for name, (before, ours) in _changed.items() if os.environ.get(name) == ours})
    _changed.clear()
    _read_environment_again()


def _read_environment_again() -> None:
    """Let Ray, where it has been imported, read what it has read once and would keep."""
    if "ray" not in sys.modules:
        return
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # of a compiled module

    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(_LOOPBACK, not ray_constants.IS_WINDOWS_OR_OSX)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _start(num_cpus: int | None, folder: Path) -> None:
    import ray

    start = functools.partial(
        ray.init,
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(folder),
    )
    for left in reversed(range(_STARTS)):
        begun = time.monotonic()
        try:
            start()
        except Exception as error:  # Ray has no type of its own for a node that does not start in time
            _end_unfinished(folder)
            if not left or time.monotonic() - begun < _AT_ONCE:
                raise NotStarted(
                    f"cluster: Ray did not start on this machine ({str(error).strip()}): end other "
                    "work on it, check its free memory and disk, and run the same command again; finished work is kept"
                ) from error
        else:
            return


@contextlib.contextmanager
def _without_unused() -> Iterator[None]:
    """Start none of Ray's processes that a cluster has for others than its one driver.

    These are the autoscaler's monitor, the monitor that prints workers' logs at drivers, and the server of Ray's
    dashboard, which Ray starts and waits for even where no dashboard is asked for. Without them a start takes half the
    time (3.3 and 4.6 s for 6.3 and 7.0 s on two busy processors). Ray has no setting for this; a version of it that
    starts them by other methods starts them.
    """
    from ray._private.node import Node

    kept = {name: vars(Node)[name] for name in _UNUSED if name in vars(Node)}
    for name in kept:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


def _start_nothing(*words: Any, **options: Any) -> None:
    """Stand in for a method that starts a process."""


def _end_unfinished(folder: Path) -> None:
    """End what a start has left that did not come to its end: Ray would end it with this process only."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                process.kill()
                found.append(process)
    psutil.wait_procs(found, timeout=_END_SECONDS)


def _end(folder: Path) -> None:
    """End Ray with every process that it has started; what runs is stopped.

    Ray's own way sends SIGTERM and waits for a second each: these processes were started with that held back.
    """
    import ray
    from ray._private import worker

    node, worker._global_node = worker._global_node, None
    ray.shutdown()
    if node is None:
        return
    started: list[psutil.Process] = []
    own = [info.process for infos in node.all_processes.values() for info in infos]  # Ray lets go of them below
    for one in own:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(one.pid)
            process.suspend()  # so that it starts no others while these are listed
            started += [process, *process.children(recursive=True)]
    if any(info.process.poll() is not None for info in node.all_processes.get("raylet", ())):
        started += left_behind.processes_of(str(folder))  # of a raylet that was killed, some live on for minutes
    node.kill_all_processes(check_alive=False)
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()  # psutil looks whether another process has its id by now
    psutil.wait_procs(started, timeout=_END_SECONDS)
    for one in own:
        one.poll()  # else Python warns of one that runs


@contextlib.contextmanager
def _session_folder() -> Iterator[Path]:
    """Yield a folder for sockets and logs inside one of mode 0700 and a random name; both are removed at the end.

    Ray opens its own folder to everybody (0777), so that one around it has to be closed.
    """
    tried = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"]
    random = len(f"/{_PREFIX}12345678/r")
    short = [Path(name) for name in tried if name and len(os.path.abspath(name).encode()) + random <= MOST_FOLDER]
    usable = next((folder.absolute() for folder in short if os.access(folder, os.W_OK | os.X_OK)), None)
    if usable is None:
        raise NotStarted(
            f"cluster: Ray's sockets need a temporary folder whose path has at most {MOST_FOLDER - random} bytes, and "
            f"found none among {', '.join(name for name in tried if name)} that can be written: set RAY_TMPDIR to one"
        )
    with owned_folder(_PREFIX, usable) as folder:
        yield folder / "r"


def _raise_file_limit() -> None:
    """Let this process and its children open as many files as Ray takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= WANTED_FILES:
        return
    if allowed < FEWEST_FILES:
        raise NotStarted(
            f"cluster: a process may open {allowed} files here: Ray needs {FEWEST_FILES} at least: raise the limit "
            "(`ulimit -n 4096`, or /etc/security/limits.conf) and run the same command again"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
