"""The logs of a run: what is kept of each line, how much, and how it is shown."""

import json
import logging
import resource
import stat
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.logs import writer
from pipeline.logs.lines import ForwardLogs, forwarding_logs
from pipeline.logs.reader import RunLogReader
from pipeline.logs.writer import RunLogs
from pipeline.store import Store
from stages.contract.events import Event, Log
from tests.factories import make_record

PLAN = {name: {"fingerprint": "f", "identity": {}} for name in ("embed_clip", "train_prior")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(str(tmp_path))
    found.write_run(make_record(plan=PLAN))
    return found


def shown(store: Store, *words: str) -> str:
    result = CliRunner().invoke(app, ["logs", "tiny", *words, "--store", store.uri])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_line_holds_when_where_and_what(store: Store) -> None:
    logs = RunLogs(store, "tiny-1")
    logs.write("embed_clip", Log("3 images left out", "WARNING", 1_700_000_000.5, "node7", "00003"))
    file = Path(store.uri) / "runs" / "tiny-1" / "logs" / "embed_clip.jsonl"
    assert json.loads(file.read_text()) == {
        "time": "2023-11-14T22:13:20.500+00:00", "level": "WARNING", "run": "tiny-1", "stage": "embed_clip",
        "shard": "00003", "node": "node7", "message": "3 images left out",
    }  # fmt: skip
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(shown(store, "embed_clip", "--json"))["message"] == "3 images left out"


def test_secrets_are_masked(store: Store) -> None:
    event = Log("GET https://u:hunter2secret@h/a?token=abcdef123", attachment="password=hunter2secret")
    RunLogs(store, "tiny-1").write("embed_clip", event)
    kept = [path.read_text() for path in Path(store.uri).rglob("logs/*")]
    assert len(kept) == 2
    assert "hunter2secret" not in "".join(kept) + shown(store)


def test_all_stages_are_shown_by_time_and_one_by_its_name(store: Store) -> None:
    logs = RunLogs(store, "tiny-1")
    for second, stage in ((3, "embed_clip"), (1, "train_prior"), (2, "embed_clip")):
        logs.write(stage, Log(f"line {second}", time=float(second)))
    found = shown(store)
    assert found.index("line 1") < found.index("line 2") < found.index("line 3")
    assert "line 1" not in shown(store, "embed_clip")
    assert "the newest 2 lines of 3" in shown(store, "--tail", "2")
    wrong = CliRunner().invoke(app, ["logs", "tiny", "../x", "--store", store.uri])
    assert "expected one of embed_clip, train_prior" in str(wrong.exception)


def test_the_size_is_bounded_and_what_is_left_out_is_noted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MOST_BYTES", 2_000)
    logs = RunLogs(store, "tiny-1")
    reader = RunLogReader(store, make_record(plan=PLAN), "embed_clip")
    seen = []
    for number in range(100):
        logs.write("embed_clip", Log(f"line {number:02}", time=float(number)))
        if number % 5 == 0:
            seen += reader.new_lines()
    sizes = {path.name: path.stat().st_size for path in (Path(store.uri) / "runs/tiny-1/logs").iterdir()}
    assert set(sizes) == {"embed_clip.jsonl", "embed_clip.1.jsonl"}
    assert max(sizes.values()) < 2_500
    assert "to bound the log's size" in shown(store)
    seen += reader.new_lines()
    assert [line.message for line in seen if line.message.startswith("line")] == [f"line {n:02}" for n in range(100)]


def test_follow_shows_what_is_added_until_the_run_is_over(store: Store) -> None:
    from pipeline.heartbeat import beating

    record = make_record(plan=PLAN, status="running")
    logs = RunLogs(store, "tiny-1")
    with beating(store, "tiny-1"):
        while store.read_heartbeat("tiny-1") is None:
            time.sleep(0.01)
        store.write_run(record)
        logs.write("embed_clip", Log("at first"))

        def go_on() -> None:
            time.sleep(0.3)
            logs.write("embed_clip", Log("added"))
            store.write_run(record.model_copy(update={"status": "done"}))

        thread = threading.Thread(target=go_on)
        thread.start()
        found = shown(store, "--follow")
        thread.join()
    assert (found.count("at first"), found.count("added")) == (1, 1)


@pytest.mark.parametrize("damage", [b"{", b"[]", b"\xff\xfe", b'{"time": 1}', b"[" * 100_000, b"x" * 100_000, b""])
def test_damaged_lines_do_not_hide_the_others(store: Store, damage: bytes) -> None:
    logs = RunLogs(store, "tiny-1")
    logs.write("embed_clip", Log("before"))
    file = Path(store.uri) / "runs/tiny-1/logs/embed_clip.jsonl"
    file.write_bytes(file.read_bytes() + damage + b"\n")
    logs.write("embed_clip", Log("after"))
    found = shown(store)
    assert "before" in found
    assert "after" in found
    assert "1 damaged lines were left out" in found


def test_a_line_that_a_full_disk_cut_off_takes_no_other_along(store: Store) -> None:
    logs = RunLogs(store, "tiny-1")
    reader = RunLogReader(store, make_record(plan=PLAN), "embed_clip")
    logs.write("embed_clip", Log("before"))
    file = Path(store.uri) / "runs/tiny-1/logs/embed_clip.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 60, limits[1]))  # as a disk with 60 bytes left
    try:
        with pytest.raises(OSError, match="too large"):
            logs.write("embed_clip", Log("cut off"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not file.read_bytes().endswith(b"\n")
    seen = reader.new_lines()
    started_again = RunLogs(store, "tiny-1")
    for message in ("after", "and so on"):
        started_again.write("embed_clip", Log(message))
    seen += reader.new_lines()
    assert [line.message for line in seen] == ["before", "after", "and so on"]
    assert reader.damaged == 1
    assert file.read_bytes().count(b"\n") == 4


def test_a_remote_store_gets_the_logs_while_the_stage_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "COPY_SECONDS", 0.05)
    store = Store("memory://logs-test")
    logs = RunLogs(store, "tiny-1")
    logs.write("embed_clip", Log("on its way"))
    until = time.monotonic() + 10
    while not store.read_log("tiny-1", "embed_clip.jsonl"):
        assert time.monotonic() < until
        time.sleep(0.02)
    logs.write("embed_clip", Log("the last", attachment="a stack"))
    logs.close()
    last = json.loads(store.read_log("tiny-1", "embed_clip.jsonl").splitlines()[-1])
    assert last["message"].startswith("the last (its stack: memory://logs-test/runs/tiny-1/logs/embed_clip-stack-1.txt")
    assert store.read_log("tiny-1", "embed_clip-stack-1.txt") == b"a stack\n"


def test_a_file_that_is_noted_while_others_are_taken_to_be_copied_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "COPY_SECONDS", 0.01)
    store = Store("memory://logs-race")

    class Folder(type(Path())):  # type: ignore[misc]
        """Has another thread come first, as the system may at any time, when the name of a file is looked up."""

        @property
        def name(self) -> str:
            if threading.current_thread() is threading.main_thread():
                time.sleep(0.2)
            return super().name

    logs = RunLogs(store, "tiny-1")
    logs.folder = Folder(logs.folder)
    logs.write("embed_clip", Log("on its way"))
    logs.close()
    assert store.read_log("tiny-1", "embed_clip.jsonl")


def test_a_process_forwards_its_lines_and_not_too_many() -> None:
    events: list[Event] = []
    handler = ForwardLogs(events.append)
    handler.shard = "00007"
    with forwarding_logs(handler):
        logging.getLogger("stages.embed_clip").info("ours")
        logging.getLogger("other.library").info("not worth it")
        logging.getLogger("other.library").warning("theirs")
        for _ in range(1000):
            logging.getLogger("other.library").warning("a flood")
        handler._allowance = 10
        logging.getLogger("cluster.pool").warning("after it", extra={"attachment": "stack"})
    found = [event for event in events if isinstance(event, Log)]
    assert [event.message for event in found[:2]] == ["stages.embed_clip: ours", "other.library: theirs"]
    assert (found[0].shard, bool(found[0].node), found[0].time > 0) == ("00007", True, True)
    assert len(found) < 260
    assert "lines of this process were left out: they came too fast" in found[-2].message
    assert found[-1].attachment == "stack"
