"""The Fréchet distance with its interval: of few rows by the rows, of many by their moments, and the same by both."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from models.metrics.intervals import GROUPS, jackknife_interval
from models.metrics.moments import Moments, frechet_of_moments
from stages.evaluate.distances import frechet_figures, frechet_steps
from stages.evaluate.records import Rows
from stages.storage.artifact import Artifact

WIDTH = 64


@dataclass(frozen=True)
class Part:
    first: int
    count: int


class InMemory(Rows[Part]):
    """Rows in units of seven."""

    def __init__(self, folder: Path, rows: np.ndarray) -> None:
        units = [Part(first, min(7, len(rows) - first)) for first in range(0, len(rows), 7)]
        super().__init__(Artifact(str(folder), "evaluate", "e0"), units)
        object.__setattr__(self, "rows", rows)

    def read(self, unit: Part) -> np.ndarray:
        rows: np.ndarray = self.rows  # type: ignore[attr-defined]
        return rows[unit.first : unit.first + unit.count]


def normal(rows: int, seed: int, mean: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, size=(rows, WIDTH)).astype(np.float32)


@pytest.mark.parametrize(("num", "num_true"), [(40, 40), (40, WIDTH), (WIDTH, 30), (WIDTH + 1, WIDTH), (300, 90)])
def test_figures_are_those_of_the_moments_however_many_rows_there_are(tmp_path: Path, num: int, num_true: int) -> None:
    a, b = normal(num, 0, 0.0), normal(num_true, 1, 0.3)
    reports: list[None] = []
    found = frechet_figures(InMemory(tmp_path, a), InMemory(tmp_path, b), lambda: reports.append(None))

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        return frechet_of_moments(*(Moments.of(torch.from_numpy(rows)) for rows in (one, other)))

    def without(rows: np.ndarray, group: int) -> np.ndarray:
        kept: np.ndarray = rows[np.arange(len(rows)) % GROUPS != group]
        return kept

    value = distance(a, b)
    low, high = jackknife_interval(value, [distance(without(a, g), without(b, g)) for g in range(GROUPS)])
    figure = found["frechet_distance"]
    assert figure.n == num
    assert (figure.value, figure.high) == pytest.approx((value, high), rel=1e-9)
    assert figure.low == pytest.approx(max(low, 0.0), rel=1e-9)
    halves = found["frechet_distance/true_halves"]
    assert halves.value == pytest.approx(distance(b[::2], b[1::2]), rel=1e-9)
    assert len(reports) == frechet_steps(num, num_true) == 1 + GROUPS
