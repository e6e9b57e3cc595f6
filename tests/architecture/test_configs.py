"""Every experiment that is shipped can be read and planned, and says at its head what it is."""

from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.plan import make_plan
from pipeline.store import Store

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def test_there_are_configs() -> None:
    names = {path.name for path in CONFIGS}
    assert {"quickstart.yaml", "supervised.yaml", "language_free.yaml", "tiny_clip.yaml", "smoke.yaml"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_validates_and_plans(path: Path, tmp_path: Path) -> None:
    config = load_config(path, [f"store={tmp_path}"])
    plan = make_plan(config, Store(config.store))
    assert set(config.stages()) <= set(plan.stages)
    assert all(stage.state == "new" for stage in plan.stages.values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_opens_with_its_card(path: Path) -> None:
    head = [line for line in path.read_text().splitlines()[:12] if line.startswith("#")]
    for entry in ("Command:", "Hardware:", "Time:", "Result:"):
        assert any(entry in line for line in head), f"the head of {path.name} has no {entry}"
