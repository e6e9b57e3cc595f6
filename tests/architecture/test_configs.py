"""Every experiment that is shipped can be read and planned, and says at its head what it is."""

from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.config.yaml_files import read_yaml
from pipeline.errors import UsageError
from pipeline.plan import make_plan
from pipeline.store import Store
from pipeline.sweep.config import load_sweep, variants_of

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
SWEEPS = [path for path in FILES if "base" in read_yaml(path)]
CONFIGS = [path for path in FILES if path not in SWEEPS]
#: What is made by a command of its own, or is the user's, and not shipped.
ABSENT = {
    "clip.yaml": "data/openmoji", "drawings.yaml": "data/openmoji", "existing.yaml": "data/embeddings",
}  # fmt: skip


def test_there_are_configs() -> None:
    names = {path.name for path in CONFIGS}
    assert {"quickstart.yaml", "supervised.yaml", "language_free.yaml", "tiny_clip.yaml", "smoke.yaml"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_validates_and_plans(path: Path, tmp_path: Path) -> None:
    config = load_config(path, [f"store={tmp_path}"])
    absent = ABSENT.get(path.name) if path.parent.name == "ablation" else None
    if absent is not None and not (ROOT / absent).exists():
        with pytest.raises(UsageError, match=f"no file or folder at .*{absent}"):
            make_plan(config, Store(config.store))
        return
    plan = make_plan(config, Store(config.store))
    assert set(config.stages()) <= set(plan.stages)
    assert all(stage.state == "new" for stage in plan.stages.values())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_every_variant_of_a_sweep_validates(path: Path, tmp_path: Path) -> None:
    sweep = load_sweep(path)
    variants = list(variants_of(sweep))
    assert len({variant.label for variant in variants}) == len(variants) > 1
    for variant in variants:
        words = variant.overrides(sweep.repeat, 0 if sweep.repeat else None)
        assert load_config(sweep.base, [*words, f"store={tmp_path}"]).stages()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_config_opens_with_its_card(path: Path) -> None:
    head = [line for line in path.read_text().splitlines()[:12] if line.startswith("#")]
    for entry in ("Command:", "Hardware:", "Time:", "Result:"):
        assert any(entry in line for line in head), f"the head of {path.name} has no {entry}"
