"""How the fuzzer shares its time out: every target tries inputs, however long the start of others takes."""

from pathlib import Path

import pytest

from tests.fuzz.__main__ import report
from tests.fuzz.child import Tally
from tests.fuzz.supervisor import parts_of, run_targets
from tests.fuzz.targets import TARGETS


@pytest.mark.timeout(120)
def test_every_target_tries_inputs_though_starting_takes_longer_than_the_time(tmp_path: Path) -> None:
    """The imports of the first take seconds."""
    chosen = [TARGETS[name] for name in ("vision_folder", "experiment", "lease")]
    tallies = run_targets(chosen, seed=0, seconds=0.3, jobs=1, folders=(tmp_path / "a", tmp_path / "b"))
    assert {name: tally.inputs > 0 for name, tally in tallies.items()} == {target.name: True for target in chosen}


def test_time_is_shared_out_by_weight() -> None:
    targets = list(TARGETS.values())
    parts = parts_of(60.0, targets)
    assert sum(parts) == pytest.approx(60.0)
    assert len({round(part / target.weight, 9) for part, target in zip(parts, targets, strict=True)}) == 1


def test_a_target_that_tried_nothing_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    tried = Tally(inputs=30, seconds=1.0, kinds={"value": 30})
    assert report({"one": tried}, 0, 1.0) == 0
    assert report({"one": tried, "two": Tally(), "three": Tally()}, 0, 1.0) == 1
    assert "no input was tried by two, three" in capsys.readouterr().out
