"""The units of inputs that are still being made: each once, all in the end, none after a failure."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.mapping import Growing
from stages.contract.errors import InputFault, InputLost
from stages.contract.stage import InputState, StageContext
from stages.storage.artifact import Output
from stages.streaming.runner import UpstreamUnits
from tests.factories import make_context


class Source:
    """A stage that is being made, by the test."""

    def __init__(self, folder: Path, planned: int, stage: str = "download_shards") -> None:
        self.state = "running"
        self.stage = stage
        self.output = Output(str(folder / stage), stage, "test")
        self.output.write_plan(planned)

    def context(self) -> StageContext:
        context = make_context()
        return StageContext(context.emit, context.map_shards, context.launch_training, input_state=self.state_of)  # type: ignore[arg-type]

    def state_of(self, name: str) -> str:
        assert name == self.stage
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


class Pair:
    """Shards, and what another stage makes, or has made, of them."""

    def __init__(self, folder: Path) -> None:
        self.shards, self.captions = Source(folder, planned=3), Source(folder, planned=9, stage="caption_images")

    def state_of(self, name: str) -> InputState:
        return (self.shards if name == self.shards.stage else self.captions).state  # type: ignore[return-value]

    def units(self) -> UpstreamUnits:
        context = replace(make_context(), input_state=self.state_of)
        return UpstreamUnits(self.shards.output, context, poll_seconds=0.0, also=self.captions.output)


def test_a_shard_comes_when_both_have_it_whichever_is_done_first(tmp_path: Path) -> None:
    """The captions are another experiment's, done before the download begins, and of more shards than it has."""
    pair = Pair(tmp_path)
    pair.captions.finish("00000", "00001", "00002", "00003")
    pair.captions.state = "done"
    units, output = pair.units(), Output(str(tmp_path / "own"), "embed_clip", "test")
    items = units.without(())
    assert isinstance(items, Growing)
    assert not next(items.batches)
    assert (units.write_plan(output), units.note) == (3, "streaming from download_shards")
    pair.shards.finish("00001")
    assert taken(items) == ["00001"]
    pair.shards.finish("00000", "00002")
    pair.shards.state = "done"
    assert taken(items) == ["00000", "00002"]
    assert taken(items) == ["end"]
    assert (units.write_plan(output), units.note) == (3, "")


def test_a_shard_waits_for_what_is_made_of_it_while_that_runs(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.shards.finish("00000", "00001")
    units = pair.units()
    items = units.without(())
    assert isinstance(items, Growing)
    assert not next(items.batches)
    assert units.note == "streaming from download_shards and caption_images"
    pair.captions.finish("00001")
    assert taken(items) == ["00001"]
    pair.shards.state = "done"
    assert not next(items.batches)
    assert units.note == "streaming from caption_images"
    pair.captions.finish("00000")
    pair.captions.state = "done"
    assert taken(items) == ["00000"]
    assert taken(items) == ["end"]


LACKS = r"caption_images: found nothing of 2 of 3 shards \(00001, 00002\): .*leave reuse\.caption_images out"


@pytest.mark.parametrize("finished_early", [True, False])
def test_shards_of_which_nothing_was_made_elsewhere_are_an_error(tmp_path: Path, finished_early: bool) -> None:
    pair = Pair(tmp_path)
    pair.captions.finish("00000")
    pair.captions.state = "done"
    pair.shards.finish("00000", "00001", "00002")
    if finished_early:
        pair.shards.state = "done"
        with pytest.raises(InputFault, match=LACKS):
            pair.units()
    else:
        with pytest.raises(InputFault, match=LACKS):
            taken(pair.units().without(()))


def test_either_of_two_that_fails_ends_it_by_name(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    items = pair.units().without(())
    pair.shards.state, pair.captions.state = "done", "failed"
    with pytest.raises(InputLost, match="caption_images: failed while its shards were streamed"):
        taken(items)
