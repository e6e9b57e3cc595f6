"""Rates of stages: of what a start made in its seconds, wherever they are shown."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from cluster.mapping import WorkerResources
from pipeline.config.loading import load_config
from pipeline.dashboard.runs import stage_node
from pipeline.heartbeat import Life
from pipeline.outbox.operations import StageEnded
from pipeline.plan import make_plan
from pipeline.progress import MadeItems
from pipeline.record import RunRecord
from pipeline.report import stage_table
from pipeline.results import StageResult, new_record, update_record
from pipeline.store import Store
from stages.contract.documents import UnitRecord
from stages.contract.events import Event, Progress
from stages.contract.stage import StageSummary
from stages.storage.artifact import Output
from stages.streaming.reuse import Reused
from stages.streaming.runner import UnitList, UnitRunner
from tests.factories import interrupt_after, make_context

SHARDS = {"00000": 900, "00001": 90, "00002": 10}
ALL = sum(SHARDS.values())
STAGE = "download_shards"


class Record(UnitRecord):
    images: int = Field()
    counted: ClassVar = {"images": "images"}


def make_worker(output: Output, elsewhere: tuple[str, ...]) -> Callable[[str], Record | Reused[Record]]:
    def work(name: str) -> Record | Reused[Record]:
        output.write_bytes(f"files/{name}", b"made")
        record = Record(images=SHARDS[name])
        return Reused(record) if name in elsewhere else record

    return work


def start(folder: Path, *, cut_after: int | None = None, elsewhere: tuple[str, ...] = ()) -> MadeItems:
    """Make the shards that are missing, in one start of the stage; of some, an earlier artifact has them."""
    output, events = Output(str(folder / "out"), STAGE, "f0"), list[Event]()
    context = make_context(events)
    if cut_after is not None:
        context = replace(context, map_shards=interrupt_after(cut_after))
    runner = UnitRunner(
        output=output, units=UnitList(list(SHARDS)), kind=Record, records=Record.done(output),
        make_worker=functools.partial(make_worker, output, elsewhere), resources=WorkerResources(),
    )  # fmt: skip
    if cut_after is None:
        runner.run(context)
    else:
        with pytest.raises(KeyboardInterrupt):
            runner.run(context)
    made = MadeItems()
    made.begin()
    for event in events:
        made.note(event)
    return made


def shown_rates(folder: Path, made: MadeItems) -> tuple[str, float | None, float | None]:
    """Return the table of a run whose stage took 5 s and 3 s of start-up, and the rates of dashboard and MLflow."""
    result = StageResult(STAGE, "done", 8.0, 3.0, StageSummary(ALL), made=made.of(ALL))
    store = Store(str(folder / "store"))
    plan = make_plan(load_config("configs/smoke.yaml"), store)
    written = update_record(new_record(plan, "x.yaml", {}), {STAGE: result}, plan, store)
    record = RunRecord.parse(written.to_json(), "test")
    columns = {str(one.header): [str(cell) for cell in one.cells] for one in stage_table(record).columns}
    ended = StageEnded.of(STAGE, result.state, result.seconds, result.summary, result.rate)
    rate = columns["rate"][0] if "rate" in columns else ""
    return rate, stage_node(record, STAGE, Life("done"))["rate"], ended.per_second


def test_what_an_earlier_start_made_is_not_in_the_rate(tmp_path: Path) -> None:
    start(tmp_path, cut_after=2)
    assert shown_rates(tmp_path, start(tmp_path)) == ("2/s", 2.0, 2.0)  # the 10 images of the third shard in 5 s


def test_what_was_taken_over_is_not_in_the_rate(tmp_path: Path) -> None:
    made = start(tmp_path, elsewhere=("00000", "00001"))
    assert shown_rates(tmp_path, made) == ("2/s", 2.0, 2.0)


def test_a_start_that_made_all_has_the_rate_of_all(tmp_path: Path) -> None:
    assert shown_rates(tmp_path, start(tmp_path)) == ("200/s", 200.0, 200.0)
    assert shown_rates(tmp_path, start(tmp_path)) == ("", None, None)  # which made nothing


def test_what_a_lost_process_did_not_report_is_not_in_the_rate() -> None:
    made = MadeItems()
    made.begin()
    made.note(Progress(0, 3, "shards"))
    made.note(Progress(1, 3, "shards", items=900, reused=1, reused_items=900))
    made.begin()  # the second shard was recorded meanwhile, and nobody knows whether it was made
    made.note(Progress(2, 3, "shards", items=990))
    made.note(Progress(3, 3, "shards", items=1000))
    assert made.of(1000) == 10


def test_a_training_that_goes_on_counts_its_own_steps() -> None:
    made = MadeItems()
    made.begin()
    for step in (9000, 9500, 9250, 10_000):  # it rolled back once
        made.note(Progress(step, 10_000, "steps", items=step * 8))
    assert made.of(80_000) == 8000
    assert MadeItems().of(80_000) is None  # the trained model was there


def test_reports_of_something_else_than_items_give_no_rate_of_a_resumed_stage() -> None:
    made = MadeItems()
    for step in (30, 31):
        made.note(Progress(step, 40, "passes", items=step * 500))
    assert made.of(500) is None
    whole = MadeItems()
    for step in (0, 40):
        whole.note(Progress(step, 40, "passes", items=step * 500))
    assert whole.of(500) == 500
