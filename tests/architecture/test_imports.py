"""Who may import whom: no circles, every package under the contracts, configs without stage code."""

import re
import tomllib
from pathlib import Path

import grimp
import pytest

from pipeline.config.schema import STAGES
from tests.architecture.circles import PACKAGES, find_circles

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"contract", "storage", "formats", "streaming", "inference", "encoders", "training"}
GRAPH = grimp.build_graph(*PACKAGES, cache_dir=None, include_external_packages=True)
CONFIGS = sorted(name for name in GRAPH.modules if name.rpartition(".")[2] in {"config", "spec"} and "." in name)


def test_no_module_reaches_itself() -> None:
    circles = find_circles()
    assert not circles, "\n".join(" <-> ".join(sorted(circle)) for circle in circles)


def test_every_stage_and_every_room_is_under_a_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    top, *rooms = next(contract["layers"] for contract in contracts if contract["name"].startswith("stages meet"))
    assert set(top.replace("|", " ").split()) == {f"stages.{name}" for name in STAGES}
    assert set(re.split(r"[ |:]+", " ".join(rooms))) == {f"stages.{name}" for name in ROOMS}


@pytest.mark.parametrize("module", CONFIGS)
def test_a_config_imports_nothing_heavy_and_no_stage_code(module: str) -> None:
    direct = GRAPH.find_modules_directly_imported_by(module)
    assert not direct & {"torch", "ray", "numpy", "pandas", "pyarrow", "fsspec", "transformers", "diffusers"}
    assert not [name for name in direct if _is_stage_code(name)]


def _is_stage_code(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "stages" and parts[1] in STAGES and not parts[-1].endswith("config")
