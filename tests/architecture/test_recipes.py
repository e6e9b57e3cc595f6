"""The recipes of CONTRIBUTING.md are complete: after each, the house stands and knows the new part."""

from pathlib import Path

import pytest

from tests.architecture.recipes import EDITS, FOLDER, changes, copy_house, follow, python

CHECKS = (
    "imports.py",
    "kinds.py",
    "house.py::test_import_contracts_hold",
    "house.py::test_a_stage_is_one_name_everywhere",
)
#: Files that a recipe changes besides adding its own folder.
CHANGED = {"stage": {"pipeline/config/schema.py", "pyproject.toml"}}


@pytest.mark.parametrize("recipe", EDITS)
def test_a_recipe_touches_its_own_folder_and_named_files(recipe: str, tmp_path: Path) -> None:
    copy_house(tmp_path)
    follow(recipe, tmp_path)
    new = {str(path.relative_to(FOLDER / recipe)) for path in (FOLDER / recipe).rglob("*.py")}
    assert {name for name, _ in changes(tmp_path)} == new | CHANGED[recipe]


def test_the_house_stands_with_the_toys_in_it(tmp_path: Path) -> None:
    copy_house(tmp_path)
    for recipe in EDITS:
        follow(recipe, tmp_path)
    files = [f"tests/architecture/test_{name}" for name in CHECKS]
    python(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", *files)
