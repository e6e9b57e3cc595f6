"""The runner of per-shard stages: it skips what is done, records what it makes, and adds it up."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from cluster.item_progress import begin_item
from cluster.mapping import Inbox, Items, MakeWorker, Mapper, WorkerResources
from stages.contract.documents import Totals, UnitRecord
from stages.contract.errors import ArtifactError
from stages.contract.events import Event, Progress
from stages.storage.artifact import Artifact, Output, unit_record
from stages.streaming.runner import UnitList, UnitRunner, run_on_shards
from tests.factories import interrupt_after, make_context


class Record(UnitRecord):
    counted: ClassVar[Mapping[str, str]] = {"images": "rows"}

    rows: int
    failures: dict[str, int] = Field(default_factory=dict)


def make_worker(folder: Path, output: Output) -> Callable[[str], Record]:
    def work(name: str) -> Record:
        (folder / name).touch(exist_ok=False)  # an error where a unit is made twice
        output.write_bytes(f"files/{name}", name.encode())
        return Record(rows=int(name), failures={"timeout": 2} if name == "3" else {})

    return work


def run(tmp_path: Path, **options: object) -> dict[str, Record]:
    output = Output(str(tmp_path / "out"), "test_shards", "f0")
    context = options.pop("context", make_context())
    runner = UnitRunner(
        output=output,
        units=UnitList(["1", "2", "3"]),
        kind=Record,
        records=Record.done(output),
        make_worker=functools.partial(make_worker, tmp_path, output),
        resources=WorkerResources(),
        **options,  # type: ignore[arg-type]
    )
    return runner.run(context)  # type: ignore[arg-type]


def test_an_interrupted_run_goes_on_with_the_other_units_and_reports_all(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, context=make_context(map_shards=interrupt_after(2)))
    events: list[Event] = []
    records = run(tmp_path, context=make_context(events))
    assert {name: record.rows for name, record in records.items()} == {"1": 1, "2": 2, "3": 3}
    assert events == [Progress(2, 3, "shards", items=3), Progress(3, 3, "shards", items=6)]
    output = Output(str(tmp_path / "out"), "test_shards", "f0")
    assert output.planned_units() == 3
    assert output.done_units()["1"] == {"rows": 1}
    assert run(tmp_path) == records


def given_again(lost_at: Collection[str]) -> Mapper:
    """Map in this process, as a pool does whose workers were lost at these items."""

    def map_items(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
        worker, inbox = make_worker(), Inbox(items)
        while inbox.poll():
            while inbox.waiting:
                item = inbox.waiting.popleft().item
                begin_item(is_given_again=item in lost_at)
                yield worker(item)
        begin_item()

    return map_items


def test_what_a_lost_worker_has_finished_is_not_made_again(tmp_path: Path) -> None:
    """The driver's list is of before: the worker recorded units 2 and 3 (damaged) afterwards, and was lost."""
    output = Output(str(tmp_path / "out"), "test_shards", "f0")
    unheard = Record(rows=20)

    def map_items(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
        unheard.finish(output, "2")
        unheard.finish(output, "3")
        (tmp_path / "out" / unit_record("3")).write_text("{")
        return given_again({"1", "2", "3"})(make_worker, items, resources)

    records = run(tmp_path, context=make_context(map_shards=map_items))
    assert {name: record.rows for name, record in records.items()} == {"1": 1, "2": 20, "3": 3}
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["1", "3"]


def test_a_stale_unit_is_made_again_although_a_worker_was_lost_at_it(tmp_path: Path) -> None:
    """Units 2 to 4 are of earlier shards. The lost workers had not begun 2, had made 3 anew, and had set 4 aside."""
    shards, output = (Output(str(tmp_path / name), f"{name}_shards", "f0") for name in ("download", "test"))
    contents = {"1": "as before", "2": "new", "3": "new", "4": "new"}
    is_running = True

    def finish(record: Record, name: str) -> None:
        with output.collecting():
            output.write_bytes(f"files/{name}", record.made_from.encode())
            record.finish(output, name)

    def map_items(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
        nonlocal is_running
        finish(Record(rows=30, made_from="new"), "3")
        output.set_aside(["units/4.json"])
        for name in contents:
            shards.finish_unit(name, {})
        is_running = False
        return given_again({"2", "3", "4"})(make_worker, items, resources)

    def content_of(source: Artifact, name: str) -> str | None:
        return contents[name] if source.exists(unit_record(name)) else None

    for name in contents:
        finish(Record(rows=10, made_from="as before"), name)
    events: list[Event] = []
    context = make_context(events, map_shards=map_items)
    context = replace(context, input_state=lambda name: "running" if is_running else "done")
    make = functools.partial(make_worker, tmp_path, output)
    records, _ = run_on_shards(Record, make, shards, output, context, content_of=content_of)
    assert {name: (record.rows, record.made_from) for name, record in records.items()} == {
        "1": (10, "as before"), "2": (2, "new"), "3": (30, "new"), "4": (4, "new")
    }  # fmt: skip
    assert Record.done(output) == records
    damaged = tmp_path / "test" / "damaged"
    assert (damaged / "files" / "2").read_text() == "as before"
    assert {path.name for path in (damaged / "units").iterdir()} == {"2.json", "4.json"}
    assert isinstance(events[-1], Progress)
    assert (events[-1].done, events[-1].reused) == (4, 1)


def test_totals_are_the_sums_by_count_and_by_cause(tmp_path: Path) -> None:
    totals = Totals.of(run(tmp_path).values())
    assert totals.images == 6
    assert totals.named == {"images": 6, "failed_timeout": 2}


def test_a_check_ends_the_stage_after_a_unit(tmp_path: Path) -> None:
    def check(name: str, record: Record) -> None:
        if (name, record.rows) == ("2", 2):
            raise RuntimeError("two are enough")

    with pytest.raises(RuntimeError, match="two are enough"):
        run(tmp_path, check=check)
    assert sorted(Output(str(tmp_path / "out"), "test_shards", "f0").done_units()) == ["1", "2"]


def test_a_record_of_another_version_is_refused_with_its_address_and_fields(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"), "test_shards", "f0")
    output.finish_unit("1", {"rows": 1, "photos": 2})
    with pytest.raises(ArtifactError, match=r"units/1\.json: photos: Extra inputs .* the fields rows, failures"):
        Record.done(output)
