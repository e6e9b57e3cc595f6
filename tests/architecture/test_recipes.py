"""The recipes of CONTRIBUTING.md are complete: after each, the house stands and knows the new part."""

from pathlib import Path

import pytest

from tests.architecture.recipes import EDITS, FOLDER, SUFFIXES, changes, copy_house, follow

#: Files that a recipe changes besides adding its own folder.
CHANGED = {
    "stage": {"pipeline/config/schema.py", "pyproject.toml"},
    "decoder": {"models/decoders/registry.py", "docs/decoders.md"},
}


@pytest.mark.parametrize("recipe", EDITS)
def test_a_recipe_touches_its_own_folder_and_named_files(recipe: str, tmp_path: Path) -> None:
    copy_house(tmp_path)
    follow(recipe, tmp_path)
    new = {str(path.relative_to(FOLDER / recipe)) for path in (FOLDER / recipe).rglob("*") if path.suffix in SUFFIXES}
    assert {name for name, _ in changes(tmp_path)} == new | CHANGED[recipe]
