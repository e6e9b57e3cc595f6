"""A sweep of which a run in the middle is refused while it goes on, by Ray of this process."""

import csv
import logging
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

from pipeline.leases import LeaseTimes
from pipeline.store import Store
from pipeline.sweep.command import do_sweep
from pipeline.sweep.config import load_sweep
from pipeline.sweep.run import open_sweep

SIZES = (16, 24, 32)


def write_sweep(folder: Path) -> Path:
    """Write a sweep of three sizes of images, whose experiment ends with the download."""
    (folder / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (40, 40), (60 * number, 0, 0)).save(folder / "images" / f"{number}.png")
        (folder / "images" / f"{number}.txt").write_text(f"number {number}")
    source = {"kind": "folder", "path": str(folder / "images")}
    base = {
        "store": str(folder / "store"),
        "storage": {"lease_wait": 0},
        "download_shards": {"source": source, "rows_per_shard": 2},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    sweep = {
        "base": "base.yaml",
        "groups": {"sizes": {"grid": {"download_shards.image_size": list(SIZES)}}},
        "table": {"images": "download_shards/images"},
    }
    path = folder / "sizes.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("local_ray")
def test_a_run_that_another_driver_makes_does_not_end_the_sweep(tmp_path: Path) -> None:
    sweep, words = load_sweep(write_sweep(tmp_path)), ["tracking.register_model=false"]
    held = open_sweep(sweep, words)[1].experiment
    other = Store(str(tmp_path / "store"))
    console = Console(record=True, width=200)
    with other.leasing(held.plan.run, held.undone(), LeaseTimes(wait=0), logging.getLogger("other").warning):
        outcome = do_sweep(sweep, words, console)
    runs = outcome.document["runs"]
    assert [run["status"] for run in runs] == ["done", "failed", "done"]
    assert "storage.lease_wait" in runs[1]["error"]
    assert "sizes, image_size 24: " in console.export_text()
    assert outcome.failed == 1
    rows = list(csv.reader((outcome.folder / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [row[1:] for row in rows] == [["images", "repeats"], ["-", "1"], ["failed", "1"], ["-", "1"]]
    assert other.read_run(held.plan.run) is None  # the record is the other driver's to write
    again = do_sweep(sweep, words, console)
    assert [run["status"] for run in again.document["runs"]] == ["done"] * 3
