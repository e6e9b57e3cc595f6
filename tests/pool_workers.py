"""Workers of maps over Ray, in a module of their own: each of their processes imports it, and little else."""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import ray

from cluster.item_progress import item_is_given_again
from cluster.task_signs import TaskLimits, TaskSign, giving_signs


def make_slow(seconds: float) -> Callable[[int], tuple[int, int, str]]:
    """Make one that takes its time, and returns the item, its process and its node."""

    def work(item: int) -> tuple[int, int, str]:
        time.sleep(seconds)
        return item, os.getpid(), ray.get_runtime_context().get_node_id()

    return work


def name_process(item: tuple[str, Path | None]) -> tuple[str, int]:
    """Return who works on an item; where there is a folder, wait there for a second worker, a minute at most."""
    name, folder = item
    if folder is not None:
        (folder / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    return name, os.getpid()


def meet_or_hold(folder: Path, number: int, item: str) -> int:
    """Return who works on an item, once so many workers have one each; the first worker at "hold…" stays for ever."""
    held = folder / item
    if item.startswith("hold"):
        if not held.exists():
            held.write_text(str(os.getpid()))
            time.sleep(1000)
        time.sleep(6.0)  # longer than another one is missed later
    (folder / f"met-{os.getpid()}").touch()
    until = time.monotonic() + 100
    while len(list(folder.glob("met-*"))) < number and time.monotonic() < until:
        time.sleep(0.02)
    return os.getpid()


def stop_itself(item: int) -> int:
    """Stop the worker's process by one of the items."""
    if item == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1000)  # until that has arrived
    return item


def die(item: int) -> int:
    """Take the worker's process down by one of the items."""
    if item == 1:
        os._exit(1)
    return item


def die_once(flag: Path, item: int) -> tuple[int, bool]:
    """Take the worker's process down at the first item that comes; return an item, and whether it is given again."""
    if not flag.exists():
        flag.touch()
        os._exit(1)
    return item, item_is_given_again()


def start_slowly_once(flag: Path) -> Callable[[int], int]:
    """Make a worker; the first process never gets there."""
    if not flag.exists():
        flag.touch()
        time.sleep(1000)
    return abs


def start_alone(folder: Path) -> Callable[[int], int]:
    """Make a worker; all processes but the first end while they start, and leave a file."""
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        (folder / f"ended-{os.getpid()}").touch()
        os._exit(1)
    return abs


def start_together(folder: Path) -> Callable[[int], int]:
    """Make a worker once the folder holds a file "go"; until then, the process leaves a file that names it."""
    (folder / f"waits-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.1)
    return abs


def stand(how: str, fifo: Path, seconds: float) -> str:
    """Stop this process, hang while a file is opened, compute in one call, or ask again and again."""
    time.sleep(1.0)  # until the first sign is given
    until = time.monotonic() + seconds
    match how:
        case "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hangs":
            fifo.open("rb")  # waits for a writer, which never comes
        case "computes":
            while time.monotonic() < until:
                hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)  # a while, in one call
        case _:
            while time.monotonic() < until:
                time.sleep(0.05)
    return how


def stand_giving_signs(send: Callable[[TaskSign], None], limits: TaskLimits, how: str, fifo: Path) -> str:
    """Do that as the process of a stage."""
    with giving_signs(send, limits):
        return stand(how, fifo, 2 * limits.stage_timeout)
