"""The units of an input that is still being made: each once, all in the end, none after a failure."""

import time
from pathlib import Path

import pytest

from cluster.mapping import Growing
from stages.contract.errors import InputLost
from stages.contract.stage import StageContext
from stages.storage.artifact import Output
from stages.streaming.runner import UpstreamUnits
from tests.factories import make_context


class Source:
    """A stage that is being made, by the test."""

    def __init__(self, folder: Path, planned: int) -> None:
        self.state = "running"
        self.output = Output(str(folder / "source"), "download_shards", "test")
        self.output.write_plan(planned)

    def context(self) -> StageContext:
        context = make_context()
        return StageContext(context.emit, context.map_shards, context.launch_training, input_state=self.state_of)  # type: ignore[arg-type]

    def state_of(self, name: str) -> str:
        assert name == "download_shards"
        return self.state

    def finish(self, *names: str) -> None:
        for name in names:
            self.output.finish_unit(name, {})


def follow(source: Source) -> UpstreamUnits:
    return UpstreamUnits(source.output, source.context(), poll_seconds=0.0)


def taken(items: object) -> list[str]:
    """Return the next units that come, or 'end'."""
    assert isinstance(items, Growing)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if names := next(items.batches, ["end"]):
            return list(names)
    raise AssertionError("no unit came")


def test_each_unit_comes_once_and_the_last_ones_with_the_end(tmp_path: Path) -> None:
    source = Source(tmp_path, planned=4)
    source.finish("00002")
    units = follow(source)
    items = units.without({"00000"})
    assert isinstance(items, Growing)
    assert taken(items) == ["00002"]
    assert not next(items.batches)
    source.finish("00000", "00001")
    assert taken(items) == ["00001"]
    source.finish("00003")
    source.state = "done"
    assert taken(items) == ["00003"]
    assert taken(items) == ["end"]


def test_the_plan_is_what_is_expected_and_then_what_there_is(tmp_path: Path) -> None:
    source = Source(tmp_path, planned=7)
    units = follow(source)
    output = Output(str(tmp_path / "own"), "embed_clip", "test")
    assert units.write_plan(output) == 7
    assert output.planned_units() == 7
    assert units.note == "streaming from download_shards"
    source.finish("00000", "00001")
    source.state = "done"
    taken(units.without(()))
    assert units.write_plan(output) == 2
    assert output.planned_units() == 2
    assert units.note == ""


def test_a_source_that_fails_ends_it_by_name(tmp_path: Path) -> None:
    source = Source(tmp_path, planned=2)
    source.finish("00000")
    items = follow(source).without(())
    assert taken(items) == ["00000"]
    source.state = "failed"
    with pytest.raises(InputLost, match="download_shards: failed while its shards were streamed"):
        taken(items)


def test_a_source_that_is_done_is_a_plain_list(tmp_path: Path) -> None:
    source = Source(tmp_path, planned=2)
    source.finish("00001", "00000", "00002")
    source.state = "done"
    assert follow(source).without({"00001"}) == ["00000", "00002"]


def test_it_polls_no_more_often_than_it_should(tmp_path: Path) -> None:
    source = Source(tmp_path, planned=1)
    items = UpstreamUnits(source.output, source.context(), poll_seconds=60.0).without(())
    assert isinstance(items, Growing)
    assert not next(items.batches)
    source.finish("00000")
    assert not next(items.batches)  # the next look is still to come
