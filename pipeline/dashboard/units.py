"""How far the units of a stage (shards, checkpoints) are: bounded data, however many there are."""

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from pipeline.heartbeat import StageWorkers
from stages.contract.errors import ArtifactError
from stages.storage.artifact import Artifact, unit_record

MOST_PARTS: Final = 400
"""Parts into which the shards are divided where they are more."""
READ_SECONDS: Final = 0.5
"""For which records of units that are new are read, each time that a stage is asked for; the others come next time."""
LIST_PAUSE: Final = 5.0
"""The pause between two listings, in times of how long one takes: a remote store may hold many."""
_MOST_ARTIFACTS: Final = 100  # that are remembered
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_AT_WORK: Final = re.compile(r"([0-9]{1,9})(?: \([0-9,]+ done\))?")  # as workers report their shards


@dataclass
class _Known:
    """What is known of an artifact's units; a record is read once, until the unit is made again."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    versions: dict[str, str] = field(default_factory=dict)
    whole: str | None = None
    next_list: float = 0.0
    lost: dict[str, int] = field(default_factory=dict)


class UnitStates:
    """The units of the artifacts that were asked for last."""

    def __init__(self, list_pause: float = LIST_PAUSE) -> None:
        self._list_pause = list_pause
        self._known = lru_cache(maxsize=_MOST_ARTIFACTS)(_new)

    def of(self, artifact: Artifact, workers: StageWorkers | None) -> dict[str, Any] | None:
        """Return how many units are done and planned, and of shards which are done, at hand, and lost samples.

        None: there is no unit yet. Shards are counted in ``parts`` of ``step`` consecutive numbers each, of which there
        are at most MOST_PARTS; units of other names have none.
        """
        known = self._known(artifact)
        with known.lock:
            _list(known, artifact, self._list_pause)
            _read(known, artifact)
            names, lost = list(known.versions), {name: count for name, count in known.lost.items() if count}
        if not names:
            return None
        planned = artifact.planned_units()
        found: dict[str, Any] = {"done": len(names), "planned": planned}
        if not all(_NUMBER.fullmatch(name) for name in names):
            return found
        numbers = [int(name) for name in names]
        done = set(numbers)
        at_work = [number for number in _at_work(workers) if number not in done]
        return found | _parts(numbers, at_work, {int(name): count for name, count in lost.items()}, planned or 0)


def _new(_artifact: Artifact) -> _Known:
    return _Known()


def _list(known: _Known, artifact: Artifact, pause: float) -> None:
    began, whole = time.monotonic(), artifact.whole_version()
    if whole == known.whole and (whole is not None or began < known.next_list):
        return
    found = artifact.unit_versions()
    known.lost = {name: count for name, count in known.lost.items() if found.get(name) == known.versions[name]}
    known.versions, known.whole, ended = found, whole, time.monotonic()
    known.next_list = ended + pause * (ended - began)


def _read(known: _Known, artifact: Artifact) -> None:
    """Read how much was lost of units that are new, as long as there is time."""
    deadline = time.monotonic() + READ_SECONDS
    for name in known.versions:
        if name not in known.lost:
            known.lost[name] = _lost(artifact, name)
            if time.monotonic() > deadline:
                return


def _lost(artifact: Artifact, name: str) -> int:
    try:
        record = artifact.read_json(unit_record(name))
    except ArtifactError:  # damaged, or set aside meanwhile: `corgi verify` says so
        return 0
    failures = record.get("failures") if isinstance(record, dict) else None
    return sum(count for count in failures.values() if isinstance(count, int)) if isinstance(failures, dict) else 0


def _at_work(workers: StageWorkers | None) -> list[int]:
    items = [] if workers is None else [item for one in workers.machines for item in one.items]
    return [int(found[1]) for item in items if (found := _AT_WORK.fullmatch(item))]


def _parts(done: Sequence[int], at_work: Sequence[int], lost: Mapping[int, int], planned: int) -> dict[str, Any]:
    total = max(planned, *(number + 1 for number in (*done, *at_work)))
    step = -(-total // MOST_PARTS)
    counts = [0] * -(-total // step)
    gone: dict[int, int] = {}
    for number in done:
        counts[number // step] += 1
    for number, count in lost.items():
        gone[number // step] = gone.get(number // step, 0) + count
    return {
        "total": total,
        "step": step,
        "parts": counts,
        "running": sorted({one // step for one in at_work}),
        "lost": gone,
    }
