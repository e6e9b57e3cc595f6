"""Human evaluation: blind pairs of images of the same prompts and seeds by two runs, and what raters said of them.

studies/<study>/study.json               the pairs, with the runs that made them
studies/<study>/raters/<rater>.json      a rater's name, and the order and the sides in which the pairs are shown
studies/<study>/votes/<rater>/<pair>.json    what the rater said of a pair; written at once, each in one step

A rater's name in files is the digest of the secret in the rater's link, which is kept nowhere.
"""

import datetime
import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import PipelineError
from pipeline.store import Store
from stages.contract.parsing import load_json, shown
from stages.storage.artifact import Artifact, Output

Choice = Literal["first", "second", "tie"]
MOST_PAIRS: Final = 5000
_STUDY: Final = re.compile(r"[0-9a-f]{12}")
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{32}")
_PRIVATE: Final = 0o600
_M = TypeVar("_M", bound=BaseModel)


class NoStudy(PipelineError):
    """There is no such study, or no such pair in it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Side(_Part):
    """An image of a run."""

    run: str
    set: str
    index: int = Field(ge=0)


class Pair(_Part):
    """Two images of one prompt and seed."""

    prompt: str
    seed: int
    first: Side
    second: Side


class Study(_Part):
    """Pairs to be rated."""

    study: str
    title: str
    created: str
    pairs: list[Pair] = Field(min_length=1, max_length=MOST_PAIRS)


class Rater(_Part):
    """Who rates, in which order the pairs come, and for which of them the sides are exchanged."""

    study: str
    rater: str
    name: str
    order: list[int]
    exchanged: list[bool]


class Vote(_Part):
    """Which image of a pair follows the prompt better, and which looks better."""

    alignment: Choice
    fidelity: Choice
    time: str = ""


class Studies:
    """The studies of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, title: str, pairs: Sequence[Pair]) -> Study:
        """Write a new study."""
        study = Study(study=secrets.token_hex(6), title=title, created=_now(), pairs=list(pairs))
        self._write(study.study, "study.json", study)
        return study

    def all(self) -> list[Study]:
        """Return the studies that can be read, the latest first."""
        folder = Artifact(f"{self._store.uri}/studies", "store", "")
        names = [name for name in folder.glob("*") if _STUDY.fullmatch(name)]
        found = [study for name in names if (study := self._read(name, "study.json", Study)) is not None]
        return sorted(found, key=lambda study: study.created, reverse=True)

    def study(self, study: str) -> Study:
        """Return a study; NoStudy: there is none."""
        found = self._read(study, "study.json", Study) if _STUDY.fullmatch(study) else None
        if found is None:
            raise NoStudy(f"study {shown(study)}: is not in this store")
        return found

    def invite(self, study: Study, name: str) -> tuple[Rater, str]:
        """Write a new rater, for whom order and sides are random; return the rater, and the secret of the link."""
        key, random = secrets.token_urlsafe(24), np.random.default_rng(secrets.randbits(64))
        order, sides = random.permutation(len(study.pairs)), random.integers(2, size=len(study.pairs)) == 1
        rater = Rater(study=study.study, rater=_digest(key), name=name, order=order.tolist(), exchanged=sides.tolist())
        self._write(study.study, f"raters/{rater.rater}.json", rater)
        return rater, key

    def rater_of(self, study: str, key: str) -> Rater | None:
        """Return whose link it is; None: nobody's."""
        if not (_STUDY.fullmatch(study) and _KEY.fullmatch(key)):
            return None
        return self._read(study, f"raters/{_digest(key)}.json", Rater)

    def raters(self, study: str) -> list[Rater]:
        """Return who was invited."""
        names = self._folder(study).glob("raters/*.json")
        return [rater for name in names if (rater := self._read(study, name, Rater)) is not None]

    def vote(self, rater: Rater, pair: int, vote: Vote) -> None:
        """Write what a rater said of a pair; what the same rater said before is replaced."""
        self._write(rater.study, _vote_file(rater, pair), vote.model_copy(update={"time": _now()}))

    def vote_on(self, rater: Rater, pair: int) -> Vote | None:
        """Return what a rater said of a pair; None: nothing yet."""
        return self._read(rater.study, _vote_file(rater, pair), Vote)

    def voted(self, rater: Rater) -> set[int]:
        """Return the pairs that a rater has rated."""
        return {_pair_of(name) for name in self._folder(rater.study).glob(f"votes/{rater.rater}/*.json")}

    def votes(self, study: str) -> Iterator[tuple[int, Vote]]:
        """Yield all that was said, with the pair that it was said of."""
        folder = self._folder(study)
        for rater in folder.glob("votes/*"):
            for name in folder.glob(f"{rater}/*.json"):
                if (vote := self._read(study, name, Vote)) is not None:
                    yield _pair_of(name), vote

    def _folder(self, study: str) -> Artifact:
        return Artifact(f"{self._store.uri}/studies/{study}", "store", "")

    def _write(self, study: str, name: str, content: BaseModel) -> None:
        output = Output(f"{self._store.uri}/studies/{study}", "store", "")
        output.write_bytes(name, json.dumps(content.model_dump(), indent=1).encode(), mode=_PRIVATE)

    def _read(self, study: str, name: str, kind: type[_M]) -> _M | None:
        folder = self._folder(study)
        if not folder.exists(name):
            return None
        try:
            with folder.open_part(name) as file:
                return kind.model_validate(load_json(file.read()))
        except (ValueError, ValidationError):  # damaged: as if it were not there
            return None


def pairs_of(rows: Sequence[tuple[str, Sequence[Any]]], prompts: Sequence[str] = ()) -> list[Pair]:
    """Return the pairs of images of the same prompt, seed and set, of every two runs.

    ``rows`` has of each run what is known of its images; with ``prompts``, others are left out. Of more pairs than a
    study may have, as many are returned, evenly spaced, so that every two runs keep their part.
    """
    wanted = set(prompts)
    by_key = [(run, {(row.prompt, row.seed, row.set): row for row in images}) for run, images in rows]
    found = []
    for (run, first), (other, second) in itertools.combinations(by_key, 2):
        for key in (key for key in first if key in second and (not wanted or key[0] in wanted)):
            sides = [
                Side(run=one, set=row.set, index=row.index) for one, row in ((run, first[key]), (other, second[key]))
            ]
            found.append(Pair(prompt=key[0], seed=key[1], first=sides[0], second=sides[1]))
    if len(found) <= MOST_PAIRS:
        return found
    return [found[number] for number in np.linspace(0, len(found) - 1, MOST_PAIRS).astype(int)]


def _vote_file(rater: Rater, pair: int) -> str:
    return f"votes/{rater.rater}/{pair:05d}.json"


def _pair_of(name: str) -> int:
    return int(name.rpartition("/")[2].removesuffix(".json"))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
