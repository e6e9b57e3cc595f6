"""The disk of the store is full for a while."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from tests.chaos.fault import DATA, InFolder, Injection, NotHere, Setting
from tests.chaos.world import World

_MEGABYTES = 32
_FILLER = "filler"


@dataclass(frozen=True)
class FullDisk(InFolder):
    """A file takes what is free on the store's disk; it is deleted before the next start."""

    name: str
    makes: tuple[str, ...] = DATA
    times: int = 3
    when: Literal["before", "during"] = "during"

    @contextlib.contextmanager
    def setting(self, world: World) -> Iterator[Setting]:
        """Yield a store on a small disk in memory."""
        if not world.isolated:
            raise NotHere("a small disk can be made by root alone")
        with world.store(without=self.makes) as view:
            files = {path: path.read_bytes() for path in view.folder.rglob("*") if path.is_file()}
            mount = ["mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES}m", "tmpfs", str(view.folder)]
            subprocess.run(mount, check=True)
            try:
                for path, content in files.items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                yield Setting(world, view)
            finally:
                subprocess.run(["umount", "--lazy", str(view.folder)], check=False)

    def inject(self, setting: Setting, rng: Random) -> Injection | None:
        with contextlib.suppress(OSError), _filler(setting).open("ab") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        return Injection("the disk is full")

    def mend(self, setting: Setting) -> None:
        _filler(setting).unlink(missing_ok=True)


def _filler(setting: Setting) -> Path:
    return Path(setting.view.uri) / _FILLER


FAULTS = (FullDisk("fill the disk"),)
