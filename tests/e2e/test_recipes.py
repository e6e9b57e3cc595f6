"""What the recipes of CONTRIBUTING.md add is sized, trained, saved and compared, and generates."""

import json
import shutil
from pathlib import Path

import pytest

from tests.architecture.recipes import EDITS, copy_house, follow, python
from tests.e2e.conftest import Finished

CHECKS = (
    "imports.py",
    "kinds.py",
    "house.py::test_import_contracts_hold",
    "house.py::test_a_stage_is_one_name_everywhere",
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the house in which all recipes were followed."""
    copy = tmp_path_factory.mktemp("house")
    copy_house(copy)
    for recipe in EDITS:
        follow(recipe, copy)
    return copy


def test_the_house_stands_with_the_toys_in_it(house: Path) -> None:
    files = [f"tests/architecture/test_{name}" for name in CHECKS]
    python(house, "pytest", "-q", "-p", "no:cacheprovider", *files, "tests/unit/models/decoders/test_flat_color.py")


@pytest.mark.thorough
def test_the_toys_work(house: Path, unchanged: tuple[Path, Finished], tmp_path: Path) -> None:
    """Beside the smoke experiment, whose data and prior they take."""
    store = str(shutil.copytree(unchanged[0], tmp_path / "store"))
    words = ("configs/decoders/flat_color.yaml", f"store={store}", "measure_colors.scale=1.0", "evaluate=null")
    sizes = json.loads(python(house, "pipeline", "plan", *words, "--sizes", "--json"))["sizes"]
    embed_dim, hidden = 128, 8
    expected = (embed_dim + 1) * hidden + (hidden + 1) * 3
    assert {size["stage"]: size["parameters"] for size in sizes}["train_decoder"] == expected
    done = json.loads(python(house, "pipeline", "run", *words, "--json"))
    states = {stage["name"]: stage["state"] for stage in done["stages"]}
    assert states["measure_colors"] == states["train_decoder"] == states["generate"] == "done"
    assert states["embed_clip"] == states["train_prior"] == "reused"
    run = done["run"]
    python(
        house, "pipeline", "generate", run, "--prompt", "a red star", "--out", str(tmp_path / "out"), "--store", store
    )
    assert list((tmp_path / "out").glob("*.png"))
    assert "flat_color" in python(house, "pipeline", "compare", run, "--store", store)
