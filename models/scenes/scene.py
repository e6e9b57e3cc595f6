"""Scenes, and the rule that assigns them to the train, held-out and CLIP sets."""

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np

from models.scenes.vocabulary import BACKGROUNDS, COLORS, DOMAINS, POSITIONS, SHAPES, SIZES

Split = Literal["train", "heldout", "clip"]
Combination = tuple[str, str, str, str, int]

SPLITS: Final[tuple[Split, ...]] = ("train", "heldout", "clip")
NUM_HELD_OUT_PER_PAIR: Final[int] = 5
"""Of the 54 combinations that share a shape and a color, this many are held out (9.3 %)."""

_SEED_BITS: Final[int] = 60


@dataclass(frozen=True)
class Scene:
    """One image, described completely: rendering it twice gives the same pixels."""

    shape: str
    color: str
    size: str
    position: str
    background: str
    domain: str = "plain"
    jitter_seed: int = 0
    """Seed of the small offset, scale and brightness by which images of one combination differ."""

    def __post_init__(self) -> None:
        choices = {
            "domain": DOMAINS,
            "shape": SHAPES,
            "color": tuple(COLORS),
            "size": tuple(SIZES),
            "position": tuple(POSITIONS),
        }
        for name, allowed in choices.items():
            _require_word(name, getattr(self, name), allowed)
        _require_word("background", self.background, tuple(BACKGROUNDS[self.domain]))

    @property
    def attributes(self) -> dict[str, str]:
        """The five attributes that captions name and the checker reads."""
        fields = asdict(self)
        return {name: fields[name] for name in ("shape", "color", "size", "position", "background")}


def make_scenes(num: int, seed: int = 0, domain: str = "plain", split: Split = "train") -> list[Scene]:
    """Return `num` scenes of one split; fewer scenes with the same seed are a prefix of more.

    Each pass goes through all combinations of the split in a fresh random order, so the set is
    as balanced as its length allows. "train" and "heldout" have no combination in common, and no two
    splits a jitter seed.
    """
    _require_word("domain", domain, DOMAINS)
    _require_word("split", split, SPLITS)
    if num < 0:
        raise ValueError(f"make_scenes.num: found {num}: expected a number of scenes, 0 or more")
    deals = _deal(seed, domain, split)
    return [next(deals) for _ in range(num)]


def _deal(seed: int, domain: str, split: Split) -> Iterator[Scene]:
    backgrounds = tuple(BACKGROUNDS[domain])
    combinations = split_combinations(split)
    split_prefix = SPLITS.index(split) << _SEED_BITS
    for deal in itertools.count():
        rng = np.random.default_rng((seed, DOMAINS.index(domain), SPLITS.index(split), deal))
        order = rng.permutation(len(combinations))
        jitter = rng.integers(2**_SEED_BITS, size=len(combinations))
        for index, low_bits in zip(order.tolist(), jitter.tolist(), strict=True):
            shape, color, size, position, background = combinations[index]
            yield Scene(
                shape=shape,
                color=color,
                size=size,
                position=position,
                background=backgrounds[background],
                domain=domain,
                jitter_seed=split_prefix | low_bits,
            )


@functools.cache
def split_combinations(split: Split) -> tuple[Combination, ...]:
    """Return all combinations of a split; the background is given by its index."""
    everything = tuple(itertools.product(SHAPES, COLORS, SIZES, POSITIONS, range(3)))
    if split == "clip":
        return everything
    held_out = _held_out_combinations()
    return tuple(c for c in everything if (c in held_out) == (split == "heldout"))


@functools.cache
def _held_out_combinations() -> frozenset[Combination]:
    """Choose the held-out set by hash, equally many for each pair of shape and color."""
    held_out: set[Combination] = set()
    for shape, color in itertools.product(SHAPES, COLORS):
        rest = itertools.product((shape,), (color,), SIZES, POSITIONS, range(3))
        held_out.update(sorted(rest, key=_stable_hash)[:NUM_HELD_OUT_PER_PAIR])
    return frozenset(held_out)


def _stable_hash(combination: Combination) -> str:
    return hashlib.sha256("/".join(map(str, combination)).encode()).hexdigest()


def _require_word(name: str, found: str, allowed: tuple[str, ...]) -> None:
    if found not in allowed:
        raise ValueError(f"Scene.{name}: found {found!r}: allowed are {', '.join(allowed)}")
