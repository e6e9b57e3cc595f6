"""What a run has left behind: processes, Ray's folders, temporary files, shared memory."""

import contextlib
import shutil
from pathlib import Path

from tests.chaos.fault import Setting

_SECONDS = 45.0  # for what a run started to end by itself: agents of Ray look for their raylet every few seconds
_KEPT = ("torchinductor_", "corgi-cache")  # caches, which are meant to stay


def find_leftovers(setting: Setting, *, killed: bool) -> list[str]:
    """Return what is left after the runs of a setting have ended, and remove it.

    Of a driver that was killed, the next run removes the folders: nobody is there to do it before.
    """
    world = setting.world
    found = [f"a process {_name(one)}" for run in setting.runs for one in run.survivors(_SECONDS)]
    folders = [path for path in world.temporary.iterdir() if not path.name.startswith(_KEPT)]
    if not killed:
        found += [f"a temporary folder {path.name}" for path in folders]
        for path in folders:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return found


def shared_memory() -> list[str]:
    """Return what is left in the /dev/shm of the whole suite."""
    return [f"/dev/shm/{path.name}" for path in Path("/dev/shm").iterdir()]


def _name(process: object) -> str:
    with contextlib.suppress(Exception):
        return " ".join(process.cmdline())[:80]  # type: ignore[attr-defined]
    return "that ended meanwhile"
