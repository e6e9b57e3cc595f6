"""Time the calls of certain functions in any process, and append what they took to a file, call by call.

A call within another timed one counts for its own part alone. Seconds are those of the clock and of the thread's
processor.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

#: Part, and the functions in it, by module.
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "heartbeats": {
        "pipeline.heartbeat": ("Heartbeat.now",), "pipeline.store": ("Store.write_heartbeat",),
        "cluster.pool": ("_Pool._check_signs",), "cluster.rank_link": ("_exchange",),
        "cluster.task_signs": ("_Stillness.poll", "TaskWatchdog.check"),
    },
    "checksums": {
        "stages.storage.checksums": (
            "FileSum.of", "FileSum.of_bytes", "FileSum.difference", "FileSum.difference_of_bytes", "sealed", "unsealed",
        ),
        "stages.formats.checkpoints": ("read_digest",),
    },
    "leases": {"pipeline.leases": ("Leases._take", "Leases._renew", "Leases.check", "Leases.release")},
    "checkpoints": {
        "stages.training.loop": ("_Run._checkpoint",),
        "stages.formats.checkpoints": ("write_checkpoint", "remove_checkpoints"),
        "stages.training.beginning": ("agreed_beginning",),
    },
    "sync to the disk": {"stages.storage.publishing": ("sync",)},
}  # fmt: skip
_stack = threading.local()


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps the functions of a module as soon as it is imported."""

    def __init__(self, file: str) -> None:
        self._file = file

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        wanted = [(part, found) for part, modules in PARTS.items() for found in modules.get(name, ())]
        if not wanted:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                for part, found in wanted:
                    _wrap(module, found, part, self._file)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _wrap(module: ModuleType, name: str, part: str, file: str) -> None:
    holder_name, _, attribute = name.rpartition(".")
    holder = resolve_name(f"{module.__name__}:{holder_name}") if holder_name else module
    found = vars(holder)[attribute]  # a name that is gone would cost nothing
    if isinstance(found, classmethod):
        setattr(holder, attribute, classmethod(_timed(found.__func__, part, file)))
    else:
        setattr(holder, attribute, _timed(found, part, file))


def _timed(function: Callable[..., Any], part: str, file: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        within = getattr(_stack, "within", None)
        own = _stack.within = [0.0, 0.0]
        begun, used = time.perf_counter(), time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            clock, processor = time.perf_counter() - begun, time.thread_time() - used
            _stack.within = within
            if within is not None:
                within[0] += clock
                within[1] += processor
            line = [part, function.__qualname__, clock - own[0], processor - own[1], threading.current_thread().name]
            _append(file, json.dumps(line) + "\n")

    return call


def _append(file: str, line: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def install(file: str) -> None:
    """Time the calls from now on, in modules that are imported later."""
    sys.meta_path.insert(0, _Finder(file))
