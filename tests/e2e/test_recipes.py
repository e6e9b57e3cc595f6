"""What was added by the recipes of CONTRIBUTING.md works: planned, sized, run."""

import json
from pathlib import Path

from tests.architecture.recipes import EDITS, FOLDER, copy_house, follow, python


def test_the_toys_are_sized_and_run(tmp_path: Path) -> None:
    house, words = tmp_path / "house", (str(FOLDER / "toys.yaml"), f"store={tmp_path / 'store'}")
    copy_house(house)
    for recipe in EDITS:
        follow(recipe, house)
    python(house, "pipeline", "plan", *words, "--sizes")
    done = json.loads(python(house, "pipeline", "run", *words, "--json"))
    assert {stage["name"]: stage["state"] for stage in done["stages"]}["measure_colors"] == "done"
