"""The benchmarks of recovery and of whole stores run on what there is now."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.recovery import read_costs
from benchmarks.recovery_sides.timing import PARTS
from benchmarks.scale import measure
from benchmarks.store import fill
from pipeline.store import Store

TIMED = [(module, name) for modules in PARTS.values() for module, names in modules.items() for name in names]


def test_an_empty_stage_over_shards_is_measured_step_by_step() -> None:
    measured = measure(3, 0)
    assert len(measured) == 5
    assert all(math.isfinite(one.milliseconds) and one.milliseconds > 0 for one in measured)


def test_a_store_is_filled_with_finished_runs(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    runs = fill(store, 2)
    assert sorted(runs) == store.run_names()
    assert [record.status for record in store.runs()] == ["done", "done"]
    assert len(list(store.artifacts(("evaluate",)))) == 2


@pytest.mark.parametrize(("module", "name"), TIMED)
def test_what_recovery_costs_is_timed_of_functions_that_exist(module: str, name: str, tmp_path: Path) -> None:
    """In a process of its own, as functions are wrapped when their module is imported."""
    file = tmp_path / "calls"
    code = (
        f"from benchmarks.recovery_sides import timing; timing.install({str(file)!r})\n"
        f"import {module} as module\n"
        f"found = module.{name}; assert found.__wrapped__, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_costs_are_added_up_by_part(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    rows = [["leases", "f", 1.0, 0.5, "corgi-leases"], ["leases", "f", 2.0, 0.25, "MainThread"]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cost = read_costs(file)["leases"]
    assert (cost.calls, cost.clock, cost.processor, cost.aside) == (2, 3.0, 0.75, 1.0)
