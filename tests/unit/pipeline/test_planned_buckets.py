"""`corgi plan` counts the images of each bucket as soon as shards are there."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.loading import load_config
from pipeline.demands import Demands
from pipeline.plan import Plan, make_plan
from pipeline.planned_buckets import planned_buckets
from pipeline.report import plan_document, plan_table
from pipeline.store import Store
from tests.bucketed_images import make_inputs
from tests.e2e.conftest import ROOT

BUCKETS = ("train_decoder.buckets={step: 16}", "download_shards.resize_mode=keep_ratio")


def planned(folder: Path, *overrides: str) -> tuple[Plan, Store]:
    config = load_config(ROOT / "configs" / "photos.yaml", [f"store={folder / 'store'}", *overrides])
    store = Store(config.store)
    return make_plan(config, store), store


def shown(plan: Plan, store: Store) -> str:
    console = Console(file=io.StringIO(), width=240)
    console.print(plan_table(plan, Demands(), planned_buckets(plan, store)))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_images_are_counted_by_bucket(tmp_path: Path) -> None:
    plan, store = planned(tmp_path, *BUCKETS)
    assert "buckets: 48x80, 64x64, 80x48; how many images each has is known once" in shown(plan, store)
    shards = store.artifact("download_shards", plan.stages["download_shards"].fingerprint)
    shutil.copytree(make_inputs(tmp_path)["download_shards"].uri, shards.uri)
    found = plan_document(plan, Demands(), planned_buckets(plan, store))["buckets"]
    assert found["images"] == {"48x80": 8, "64x64": 8, "80x48": 24}  # of each five, two wide and one very wide
    assert (found["shards_read"], found["shards"]) == (3, 3)
    assert found["cropped_fraction"] == pytest.approx((1 - (80 / 48) / (120 / 36)) / 5)
    assert "buckets: 48x80 8, 64x64 8, 80x48 24 images; 10.0% of an image" in shown(plan, store)


def test_a_decoder_of_squares_has_none(tmp_path: Path) -> None:
    plan, store = planned(tmp_path)
    assert plan_document(plan, Demands(), planned_buckets(plan, store))["buckets"] is None
    assert "buckets" not in shown(plan, store)
