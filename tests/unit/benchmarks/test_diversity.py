"""Priors at equal diversity: what is interpolated, and what has no row."""

from dataclasses import replace

import pytest

from benchmarks.diversity import FIGURES, Measured, Point, name_of, rows_of
from models.priors.diffusion.spec import DistilledSpec, GaussianPriorSpec


def point(steps: int, guidance: float, diversity: float, figure: float) -> Point:
    return Point(steps, guidance, diversity, milliseconds=steps, figures=dict.fromkeys(FIGURES, figure))


SAMPLING = Measured("flow", 10, [point(4, 0.0, 0.9, 0.0), point(4, 1.0, 0.5, 0.4), point(4, 2.0, 0.1, 0.6)])
ALIKE = Measured("projection", 10, [point(1, 1.0, 0.0, 0.7)])


@pytest.mark.parametrize(
    ("diversity", "guidance", "figure"), [(0.5, 1.0, 0.4), (0.3, 1.5, 0.5), (0.1, 2.0, 0.6), (0.8, 0.25, 0.1)]
)
def test_figures_are_interpolated_between_guidance_scales(diversity: float, guidance: float, figure: float) -> None:
    found = SAMPLING.at(4, diversity)
    assert found is not None
    assert found.guidance == pytest.approx(guidance)
    assert found.diversity == diversity
    assert found.figures == pytest.approx(dict.fromkeys(FIGURES, figure))


@pytest.mark.parametrize("diversity", [0.05, 0.95])
def test_a_diversity_that_is_not_reached_has_no_row(diversity: float) -> None:
    assert SAMPLING.at(4, diversity) is None
    assert rows_of([SAMPLING, ALIKE], diversity) == {}


def test_priors_that_sample_nothing_random_stand_apart_and_seeds_together() -> None:
    measured = [SAMPLING, SAMPLING, ALIKE]
    assert {key: len(points) for key, points in rows_of(measured, 0.2).items()} == {("flow", 10, 4): 2}
    assert rows_of(measured, None) == {("projection", 10, 1): [ALIKE.points[0]]}


@pytest.mark.parametrize(("scales", "shown"), [((0.0, 1.0, 2.0), 1.0), ((0.0, 0.75, 2.0), 0.75), ((3.0, 1.5), 1.5)])
def test_a_prior_that_samples_nothing_random_shows_each_number_of_steps_without_guidance(
    scales: tuple[float, ...], shown: float
) -> None:
    points = [point(steps, scale, 0.001, steps + scale / 10) for steps in (2, 64) for scale in scales]
    rows = rows_of([Measured("flow, source text", 1, points)], None)
    found = {
        steps: [(one.steps, one.guidance, one.figures["R@1"]) for one in row] for (_, _, steps), row in rows.items()
    }
    assert found == {steps: [(steps, shown, steps + shown / 10)] for steps in (2, 64)}


def test_a_student_has_rows_of_its_own_beside_its_teachers() -> None:
    teacher = GaussianPriorSpec(embed_dim=8)
    student = replace(teacher, distilled=DistilledSpec())
    assert name_of(teacher) == "gaussian, standardise global"
    assert name_of(student) == "gaussian, standardise global, distilled"
