"""Two drivers on two homes over one store."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

import psutil

from tests.chaos.fault import DATA, InFolder, Injection, Setting
from tests.chaos.faults.servers import bucket_setting
from tests.chaos.world import World


@dataclass(frozen=True)
class TwoDrivers(InFolder):
    """Two drivers start at the same time; ``kill``: one of them is killed, with all below it."""

    name: str
    kill: bool
    times: int = 1
    makes: tuple[str, ...] = DATA
    when: Literal["before", "during"] = "during"

    @contextlib.contextmanager
    def setting(self, world: World) -> Iterator[Setting]:
        with bucket_setting(world, homes=2) as setting:
            yield setting

    def inject(self, setting: Setting, rng: Random) -> Injection | None:
        if not all(run.is_running for run in setting.runs):
            return None
        if self.kill:
            for one in rng.choice(setting.runs).tree():
                with contextlib.suppress(psutil.Error):
                    one.kill()
        return Injection("two drivers, one of them killed" if self.kill else "two drivers")


FAULTS = (
    TwoDrivers("two drivers on two homes", kill=False),
    TwoDrivers("two drivers, one of them killed", kill=True),
)
