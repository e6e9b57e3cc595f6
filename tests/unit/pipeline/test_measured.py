"""Causes of measurements are those of a fixed list, and the dashboard asks for what there is."""

import json
import re
from pathlib import Path

from cluster.metrics import COUNTERS, GAUGES
from pipeline.measured import failures_by_cause
from pipeline.results import StageResult
from stages.contract.stage import StageSummary

DASHBOARD = Path(__file__).resolve().parents[3] / "cluster" / "manifests" / "grafana.json"


def test_causes_have_few_values() -> None:
    counts = {"images": 9, "failed_timeout": 3, "failed_http_404": 2, "failed_http_503": 4, "failed_x\n": 5}
    result = StageResult("download_shards", "done", summary=StageSummary(9, counts=counts))
    assert failures_by_cause(result) == {"timeout": 3, "http": 6, "other": 5}
    assert failures_by_cause(StageResult("download_shards", "failed")) == {}


def test_every_query_of_the_dashboard_names_a_measurement_and_every_measurement_is_shown() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    named = {name for query in queries for name in re.findall(r"ray_(\w+)", query)}
    known = {*GAUGES, *(f"{name}_total" for name in COUNTERS)}
    assert named == known
    assert "ray_corgi_stage_running" in json.dumps(dashboard["templating"])
    assert len({panel["id"] for panel in panels}) == len(panels)
    boxes = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(boxes)) == len(boxes)


def test_labels_in_queries_are_those_of_the_measurements() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            for labels, name in re.findall(r"by \(([\w, ]+)\) \(ray_(\w+)", target["expr"]):
                further = (GAUGES | COUNTERS)[name.removesuffix("_total")][1]
                assert set(labels.split(", ")) <= {"run", "stage", *further}
