"""What a run records, as lines: whole again when read, without secrets, and damaged lines are refused."""

import math
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.outbox.operations import (
    ConfigLogged,
    ImageLogged,
    MetricsLogged,
    ModelFinished,
    Operation,
    Provenance,
    ReportLogged,
    RollBackLogged,
    RunEnded,
    StageBegun,
    StageEnded,
    StepsLogged,
    from_line,
    to_line,
)
from stages.contract.events import LoggedImage, LoggedSteps, Metrics, RolledBack
from stages.contract.stage import StageSummary

SUMMARY = StageSummary(3, counts={"bad": 1}, metrics={"cosine": 0.5}, notes={"device": "cpu"})
ALL: list[Operation] = [
    ConfigLogged(config={"a": {"b": [1, 2]}}, text="a: 1\n"),
    Provenance(images=3, captioned=1, failures={"http_404": 2}),
    StageBegun(stage="train_prior", config={"lr": 0.1}),
    MetricsLogged.of("train_prior", Metrics({"loss": 0.5}, 3)),
    ImageLogged.of("train_prior", LoggedImage("samples", b"\x89PNG\r\n", 3)),
    StageEnded.of("train_prior", "done", 2.0, SUMMARY, 1.5),
    StageEnded.of("generate", "blocked", 0.0, None),
    ModelFinished(),
    ReportLogged(page="<html>é&amp;</html>"),
    RunEnded(status="done"),
    RollBackLogged.of("train_prior", RolledBack(10, 30, 1750)),
    StepsLogged.of(
        "train_prior", LoggedSteps((Metrics({"loss": 0.5}, 3, time=1700), Metrics({"loss": 0.4}, 4, time=1800)))
    ),
]


@pytest.mark.parametrize("operation", ALL, ids=lambda one: one.kind)
def test_a_line_is_read_as_it_was_written(operation: Operation) -> None:
    line = to_line(operation)
    assert line.count(b"\n") == 1
    assert from_line(line) == operation
    assert from_line(line).time == operation.time


def test_events_and_summaries_come_back_whole() -> None:
    image, ended = ALL[4], ALL[5]
    assert isinstance(image, ImageLogged)
    assert isinstance(ended, StageEnded)
    assert image.event() == LoggedImage("samples", b"\x89PNG\r\n", 3)
    assert ended.stage_summary() == SUMMARY


def test_logged_steps_keep_their_times() -> None:
    logged = (Metrics({"loss": math.inf}, 3, time=1700), Metrics({"loss": 0.4}, 4, time=1800))
    rows = LoggedSteps(logged, (RolledBack(3, 6, 1750), RolledBack(3, 5, 1770)))
    found = from_line(to_line(StepsLogged.of("train_prior", rows)))
    assert isinstance(found, StepsLogged)
    assert found.event() == rows
    assert RollBackLogged.of("train_prior", rows.roll_backs[0]).event() == RolledBack(3, 6, 1750)
    assert ImageLogged.of("train_prior", LoggedImage("samples", b"", 3, time=1700)).time == 1700
    assert MetricsLogged.of("train_prior", rows.rows[0]).time == 1700
    assert MetricsLogged.of("train_prior", Metrics({"loss": 0.5}, 3)).time > 1e12


def test_numbers_that_are_none_are_kept() -> None:
    found = from_line(to_line(MetricsLogged(stage="x", step=1, values={"a": math.nan, "b": -math.inf})))
    assert isinstance(found, MetricsLogged)
    assert math.isnan(found.values["a"])
    assert found.values["b"] == -math.inf


def test_no_line_holds_a_password() -> None:
    config = {"store": "s3://key:hidden-word@bucket/x", "token": "hidden-word"}
    for operation in (ConfigLogged(config=config, text=""), StageBegun(stage="x", config=config)):
        assert b"hidden-word" not in to_line(operation)


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"\xff", b'{"kind": "other"}', b'{"kind": "model", "x": 1}', b"[" * 999]
)
def test_a_damaged_line_is_an_error_of_one_kind(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_line(line)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, len(ALL) - 1), st.data())
def test_a_line_of_which_a_bit_changed_is_refused(index: int, data: st.DataObject) -> None:
    line = bytearray(to_line(ALL[index]))
    line[data.draw(st.integers(0, len(line) - 2))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match=r"."):
        from_line(bytes(line))


@pytest.mark.parametrize("content", [b'{"kind": "other"', b'{"kind": "model", "x": 1', b"[" * 999])
def test_a_line_that_is_whole_and_none_of_ours_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"kind|model|deep|nest|JSON"):
        from_line(content + b', "crc32": %d}\n' % zlib.crc32(content + b"}"))
