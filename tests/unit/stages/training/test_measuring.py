"""Intervals of what validations find reach the summary, those of the best validation where its weights are kept."""

from pathlib import Path

import numpy as np
import pytest

from models.metrics.intervals import Interval
from stages.contract.measures import Measure, protocol_digest
from stages.training.config import BestConfig
from stages.training.measuring import mean_intervals, measure
from tests.unit.stages.training.line import LineTask
from tests.unit.stages.training.line_training import config, run

LINE = {"line": "straight", "pairs": "8"}


def test_a_figure_without_an_interval_has_no_measure_and_an_unknown_end_is_none() -> None:
    metrics = {"cosine": 0.5, "frechet": 3.0, "ratio": 1.0}
    intervals = {"cosine": Interval(0.4, 0.6), "ratio": Interval(float("nan"), float("nan"))}
    found = measure(metrics, intervals, 8, {"line": "straight"})
    digest = protocol_digest(LINE)
    assert found.measures == {
        "cosine": Measure(0.5, 0.4, 0.6, 8, digest), "ratio": Measure(1.0, None, None, 8, digest)
    }  # fmt: skip
    assert found.protocols == {digest: LINE}
    assert measure(metrics, {}, 8, {}) == ({}, {})
    assert not measure({"ratio": float("inf")}, {"ratio": Interval(0.0, 1.0)}, 8, {}).measures  # no record holds it


def test_an_interval_of_a_mean_is_about_two_standard_errors_on_each_side() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = mean_intervals({"x": values, "y": values * 0}, seed=0)["x"]
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)


def test_a_figure_that_is_no_finite_number_does_not_cost_the_trained_model(tmp_path: Path) -> None:
    summary, _ = run(tmp_path, config(), task=LineTask(further={"ratio": float("nan"), "twice": 2.0}))
    assert "ratio" not in summary.metrics
    assert summary.metrics["twice"] == 2.0
    assert summary.metrics["validation_loss"] > 0


def test_the_summary_of_a_training_has_the_measures_of_its_last_validation(tmp_path: Path) -> None:
    summary, _ = run(tmp_path, config())
    found = summary.measures["validation_loss"]
    assert found.value == summary.metrics["validation_loss"]
    assert found.low is not None
    assert found.low < found.value
    assert summary.protocols == {found.protocol: LINE}
    assert run(tmp_path, config())[0] == summary, "of a finished training, too"


def test_where_the_best_weights_are_kept_the_measures_are_theirs(tmp_path: Path) -> None:
    worst = BestConfig(metric="validation_loss", mode="highest")
    summary, _ = run(tmp_path, config(validation_interval=2, best=worst))
    assert summary.metrics["best_step"] < 12
    assert summary.measures["validation_loss"].value == summary.metrics["validation_loss"]
