"""What a fault is, and what a trial gives it."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal, Protocol

from tests.chaos.run import Run
from tests.chaos.stores import StoreView
from tests.chaos.world import World

DATA = ("download_shards", "embed_clip", "fit_gaussians")
TRAINING = ("train_prior",)


@dataclass
class Setting:
    """Where a trial takes place: its store, and with what words, variables and outer command a run is started."""

    world: World
    view: StoreView
    words: tuple[str, ...] = ()
    environments: tuple[Mapping[str, str], ...] = ({},)
    """Variables beside the usual ones, for each of the drivers that run at the same time."""
    within: tuple[str, ...] = ()
    runs: list[Run] = field(default_factory=list)
    """The drivers that run now."""


@dataclass(frozen=True)
class Injection:
    """What was done, and how many finished units it destroyed."""

    what: str
    destroyed: int = 0
    unanswered: int = 0
    """Records of units that the store may have taken without its answer being heard: they are written again."""


class Fault(Protocol):
    """One sort of fault."""

    @property
    def name(self) -> str:
        """What it is called in the table."""

    @property
    def when(self) -> Literal["before", "during"]:
        """Whether it strikes before a run, or while one is under way."""

    @property
    def makes(self) -> tuple[str, ...]:
        """The stages that the run is to make; all before them are there already."""

    @property
    def times(self) -> int:
        """How often it strikes in one trial."""

    @property
    def longest(self) -> float:
        """Seconds that a trial may take."""

    def setting(self, world: World) -> "contextlib.AbstractContextManager[Setting]":
        """Return where a trial takes place; NotHere: this machine does not allow it."""

    def inject(self, setting: Setting, rng: Random) -> Injection | None:
        """Strike; None: there is nothing to strike now."""

    def mend(self, setting: Setting) -> None:
        """Undo before a start what would hinder every one."""


class NotHere(Exception):
    """The fault cannot be made on this machine."""


class InFolder:
    """Base of faults that take place over a store in a fresh folder, one driver at a time."""

    when: Literal["before", "during"] = "during"
    makes: tuple[str, ...] = DATA
    times: int = 3
    longest: float = 420.0

    @contextlib.contextmanager
    def setting(self, world: World) -> Iterator[Setting]:
        with world.store(without=self.makes) as view:
            yield Setting(world, view)

    def mend(self, setting: Setting) -> None:
        """Do nothing: the fault hinders no later start."""
