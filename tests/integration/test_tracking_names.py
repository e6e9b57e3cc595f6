"""Names of any script in a real MLflow on SQLite: each figure and parameter is kept under one of its own."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking import RunTracker
from pipeline.tracking_address import default_tracking_uri
from stages.contract.events import Metrics
from stages.contract.stage import StageSummary
from stages.evaluate.category_labels import Category, category_labels


def test_figures_and_parameters_of_any_script_stay_apart(tmp_path: Path) -> None:
    values = {"动物": 31.0, "食物": 12.0, "Café": 5.0, "Cafè": 6.0, "कि": 7.0, "की": 8.0}
    labels = category_labels(Category("类别", value) for value in values)
    figures = {f"clip_score/conditioning/{labels[Category('类别', name)]}": score for name, score in values.items()}
    assert len(figures) == len(values)
    uri = default_tracking_uri(tmp_path)
    tracker = RunTracker.open(uri, "shapes", "run-1", None)
    config = {"weights": {**values, "cats & dogs": 1.0, "cats + dogs": 2.0}}
    tracker.stage_started("evaluate", config)
    tracker.stage_event("evaluate", Metrics({"loss/动物": 0.5, "loss/食物": 0.25}, step=10))
    tracker.stage_finished("evaluate", "done", 2.0, StageSummary(1, counts={"图": 1, "画": 2}, metrics=figures))
    tracker.finish("done")

    found = MlflowClient(uri).get_run(tracker.runs.stages["evaluate"]).data
    plain = {name: value for name, value in figures.items() if "क" not in name}
    assert plain.items() <= found.metrics.items()
    assert sorted(value for name, value in found.metrics.items() if "क" in name) == [7.0, 8.0]
    assert found.metrics["loss/动物"] == 0.5
    assert found.metrics["loss/食物"] == 0.25
    assert (found.metrics["counts/图"], found.metrics["counts/画"]) == (1.0, 2.0)
    assert sorted(map(float, found.params.values())) == [1.0, 2.0, 5.0, 6.0, 7.0, 8.0, 12.0, 31.0]
    assert found.params["weights.动物"] == "31.0"
    assert (
        MlflowClient(uri).get_run(tracker.runs.run_id).data.metrics.items()
        >= {f"evaluate/{name}": value for name, value in plain.items()}.items()
    )


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_resumed_run_goes_on_under_the_same_names(tmp_path: Path, is_resumed: bool) -> None:
    uri = default_tracking_uri(tmp_path)
    tracker = RunTracker.open(uri, "shapes", "run-1", None)
    tracker.stage_finished("evaluate", "done", 2.0, StageSummary(1, metrics={"a&b": 1.0, "a+b": 2.0, "a_b": 3.0}))
    if is_resumed:
        tracker = RunTracker.open(uri, "shapes", "run-1", tracker.runs)
    tracker.stage_finished("evaluate", "done", 2.0, StageSummary(1, metrics={"a_b": 3.0, "a+b": 4.0, "a&b": 1.0}))
    tracker.finish("done")
    found = MlflowClient(uri).get_run(tracker.runs.stages["evaluate"]).data.metrics
    assert found["a_b"] == 3.0
    assert sorted(value for name, value in found.items() if name.startswith("a_b_")) == [1.0, 4.0]
