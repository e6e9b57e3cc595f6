"""A parser under test, and what one input made of it."""

import contextlib
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from cluster.errors import ClusterError
from pipeline.errors import PipelineError
from stages.contract.errors import StageError, Unaccounted
from tests.fuzz.mutations import Mutation, mutate_bytes, mutate_often
from tests.fuzz.sentry import Trespass, on_duty

OWN = (StageError, PipelineError, ClusterError)
LONGEST_MESSAGE = 3000
_ATTEMPTS = 5
_ROOT = Path(__file__).resolve().parents[2]
_OURS = tuple(str(_ROOT / folder) for folder in ("pipeline", "stages", "cluster", "models"))
Run = Callable[[bytes, Path], object]


class Broken(Exception):
    """The parser returned what it must not."""


@dataclass(frozen=True)
class Target:
    """A parser of outside data."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    """Valid inputs; made in the process that runs the target."""
    prepare: Callable[[], Run]
    """Import what it takes and return the function that gives the parser one input, in a folder of its own."""
    mutations: Sequence[Mutation] = (mutate_bytes,)
    weight: float = 1.0
    """How much of the time it gets."""

    def input(self, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
        """Return the input of a number; the first ones are the valid ones."""
        if number < len(seeds):
            return seeds[number]
        rng = Random(f"{seed}/{self.name}/{number}")
        chosen = rng.choice(seeds)
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(Exception):  # what was mutated before may have no structure any more
                return mutate_often(rng, chosen, rng.choice(self.mutations))
        return chosen


@dataclass(frozen=True)
class Outcome:
    """What an input led to: "value", "refused", or a finding."""

    kind: str
    detail: str = ""
    where: str = ""
    """The last line of code of a finding, by which those alike are counted together."""

    @property
    def is_finding(self) -> bool:
        """Whether it may not happen."""
        return self.kind not in ("value", "refused")


def try_input(run: Run, data: bytes, folder: Path) -> Outcome:
    """Give the parser an input."""
    try:
        with on_duty():
            run(data, folder)
    except Unaccounted as error:  # an entry is neither an image nor counted
        return Outcome("unaccounted", str(error), "unaccounted")
    except OWN as error:
        fault = fault_of_message(str(error))
        return Outcome("refused") if fault is None else Outcome("message", f"{fault}: {error!r:.2000}", _origin(error))
    except (Exception, Trespass) as error:  # noqa: BLE001  what is not the project's own is what is looked for
        detail = "".join(traceback.format_exception(error))[-6000:]
        return Outcome(type(error).__name__, detail, _origin(error))
    return Outcome("value")


def fault_of_message(message: str) -> str | None:
    """Return what is wrong with a message to the user, if anything."""
    lines = message.split("\n")  # a wrong config has a sentence for each of its faults
    if not message.strip() or any(not line.strip() for line in lines):
        return "an empty line"
    if odd := [sign for line in lines for sign in line if not (sign.isprintable() or sign == "\xa0")]:
        return f"a sign that is not printable ({odd[0]!r})"
    if max(map(len, lines)) > LONGEST_MESSAGE:
        return f"a line of {max(map(len, lines))} signs"
    return None


def _origin(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_OURS)]
    frame = (ours or list(frames))[-1]
    return f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno} {frame.name}"
