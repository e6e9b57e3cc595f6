"""State of units: which shards are done, at hand or lost samples, in data whose size does not grow with them."""

import json
from pathlib import Path

import pytest

from pipeline.dashboard.units import MOST_PARTS, UnitStates
from pipeline.heartbeat import MachineEntry, StageWorkers
from pipeline.store import Store
from stages.storage.artifact import Output


@pytest.fixture
def output(tmp_path: Path) -> Output:
    store = Store(str(tmp_path))
    store.open_for_writing()
    return store.output("download_shards", "d")


def at_work(*items: str) -> StageWorkers:
    return StageWorkers(machines=(MachineEntry(machine="node1", workers=len(items), items=items),))


def test_the_shards_that_are_done_at_hand_and_lost_samples_are_those(output: Output) -> None:
    states = UnitStates(list_pause=0.0)
    assert states.of(output, None) is None
    output.write_plan(6)
    output.finish_unit("00001", {"rows": 9, "failures": {}})
    output.finish_unit("00004", {"rows": 9, "failures": {"http_404": 2, "timeout": 1}})
    found = states.of(output, at_work("00002 (1,200 done)", "00004", "rank 3"))
    assert found == {
        "done": 2,
        "planned": 6,
        "total": 6,
        "step": 1,
        "parts": [0, 1, 0, 0, 1, 0],
        "running": [2],
        "lost": {4: 3},
    }
    output.finish_unit("00000", {"rows": 9, "failures": {"timeout": 1}})
    again = states.of(output, None)
    assert again is not None
    assert (again["parts"], again["lost"]) == ([1, 1, 0, 0, 1, 0], {0: 1, 4: 3})


def test_of_many_shards_so_many_parts_are_counted(output: Output) -> None:
    folder = Path(output.path("units"))
    folder.mkdir(parents=True)
    for number in range(0, 3000, 2):
        (folder / f"{number:05d}.json").write_text(json.dumps({"failures": {"timeout": 1}}))
    output.write_plan(100_000)
    states = UnitStates(list_pause=0.0)
    found = states.of(output, at_work("99999"))
    assert found is not None
    assert (found["done"], found["step"], len(found["parts"])) == (1500, 250, MOST_PARTS)
    assert (found["parts"][:13], found["running"]) == ([125] * 12 + [0], [399])
    for _ in range(100):
        found = states.of(output, None)
    assert found is not None
    assert found["lost"] == {part: 125 for part in range(12)}
    assert len(json.dumps(found)) < 3000


def test_what_takes_long_to_list_is_not_listed_each_time(output: Output) -> None:
    states = UnitStates(list_pause=1e9)
    output.finish_unit("00000", {})
    found = states.of(output, None)
    output.finish_unit("00001", {})
    assert found == states.of(output, None)
    output.finish_artifact({})
    output.write_bytes("_COMPLETE", b"")
    whole = states.of(output, None)  # which changes once more, and then no more
    assert whole is not None
    assert whole["done"] == 2


def test_units_that_are_no_shards_are_counted(output: Output) -> None:
    output.finish_unit("checkpoint_00000010", {})
    output.finish_unit("model", {})
    assert UnitStates().of(output, None) == {"done": 2, "planned": None}


def test_what_is_set_aside_is_not_done_any_more(output: Output) -> None:
    output.finish_unit("00000", {"failures": {"timeout": 1}})
    output.finish_artifact({})
    output.write_bytes("_COMPLETE", b"")
    states = UnitStates(list_pause=0.0)
    assert states.of(output, None) is not None
    output.set_aside(["units/00000.json"])
    assert states.of(output, None) is None
    output.finish_unit("00000", {"failures": {}})
    again = states.of(output, None)
    assert again is not None
    assert again["lost"] == {}


@pytest.mark.parametrize("polls_between", [False, True])
def test_losses_of_a_finished_unit_that_is_made_again_are_its_new_ones(output: Output, *, polls_between: bool) -> None:
    states = UnitStates(list_pause=0.0)
    for number, lost in enumerate((1, 2, 3)):
        output.finish_unit(f"{number:05d}", {"failures": {"timeout": lost}})
    for lost in (2, 4, 0):
        output.set_aside(["units/00001.json"])
        if polls_between:
            assert states.of(output, None) == {"done": 2, "planned": None, "total": 3, "step": 1, "parts": [1, 0, 1],
                                               "running": [], "lost": {0: 1, 2: 3}}  # fmt: skip
        output.finish_unit("00001", {"failures": {"timeout": lost}})
        output.finish_artifact({})
        output.write_bytes("_COMPLETE", b"")
        found = states.of(output, None)
        assert found is not None
        assert found["lost"] == {0: 1, 2: 3} | ({1: lost} if lost else {})
