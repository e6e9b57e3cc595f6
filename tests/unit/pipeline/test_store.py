"""The store finds artifacts and runs again, tells how far they are, and refuses what it cannot use."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import UsageError
from pipeline.results import earlier_record
from pipeline.store import Store
from stages.storage.artifact import COMPLETE, Output
from tests.factories import make_entry, make_record


def test_progress_goes_from_new_over_partial_to_done(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    output = store.output("embed_clip", "abc")
    assert store.completion("embed_clip", "abc").state == "new"
    output.write_json("plan.json", {"units": 3})
    assert store.completion("embed_clip", "abc").state == "new"
    output.finish_unit("00000", {"images": 5})
    progress = store.completion("embed_clip", "abc")
    assert (progress.state, progress.units_done, progress.units_planned) == ("partial", 1, 3)
    output.write_bytes(COMPLETE, b"")
    assert store.completion("embed_clip", "abc").state == "done"


def _write_half(output: Output) -> None:
    with output.writing("a/b.bin") as partial:
        partial.write_bytes(b"half")
        raise RuntimeError("power cut")


def test_a_broken_write_leaves_nothing(tmp_path: Path) -> None:
    output = Store(str(tmp_path)).output("embed_clip", "abc")
    with pytest.raises(RuntimeError, match="power"):
        _write_half(output)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    output = Store(str(tmp_path)).output("embed_clip", "abc")
    output.write_bytes("a/whole.bin", b"whole")
    writing = output.writing("a/half.bin")
    writing.__enter__().write_bytes(b"half")  # and never left: what SIGKILL does
    assert len(list(tmp_path.rglob("*half.bin"))) == 1
    output.sweep()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["whole.bin"]


def test_the_latest_run_with_the_prefix_is_found(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for run, started in (("smoke-1", "2026-01-01"), ("smoke-2", "2026-01-03"), ("other-1", "2026-01-02")):
        store.write_run(make_record(run, started=started))
    assert store.find_run(None).run == "smoke-2"
    assert store.find_run("smoke").run == "smoke-2"
    assert store.find_run("other").run == "other-1"
    assert store.read_run("smoke-1") == make_record("smoke-1", started="2026-01-01")
    with pytest.raises(UsageError, match=r"run nothing: not found .* runs there: smoke-2, other-1, smoke-1"):
        store.find_run("nothing")
    with pytest.raises(UsageError, match=r"runs there: .*; another store is named by --store s3://bucket/store$"):
        store.find_run("store=s3://bucket/store")


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UsageError, match=r"has format 99, and this version reads and writes format 1"):
        Store(str(tmp_path)).open_for_writing()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written"):
        Store(str(tmp_path / "store")).open_for_writing()


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot be (read|written)"):
        Store(str(tmp_path / "file" / "store")).open_for_writing()


def test_an_unknown_file_system_is_refused() -> None:
    with pytest.raises(UsageError, match="store: found 'nowhere://x'"):
        Store("nowhere://x").open_for_writing()


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    store, folder = Store(str(tmp_path)), tmp_path / "runs/smoke-1"
    folder.mkdir(parents=True)
    content = make_record("smoke-1").to_json() | {"colour": "red"}
    del content["plan"]
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"run\.json: plan: Field required; colour: .* the version of corgi"):
        store.find_run("smoke")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"run": "smoke-1"}', b"[" * 100_000])
def test_a_damaged_record_does_not_keep_its_run_from_going_on(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path))
    store.write_run(make_record("smoke-1"))
    file = tmp_path / "runs/smoke-1/run.json"
    file.write_bytes(content)
    assert earlier_record(store, "smoke-1") is None
    (said,) = caplog.messages
    assert str(file) in said
    assert "run.json.damaged" in said
    assert file.with_name("run.json.damaged").read_bytes() == content
    assert earlier_record(store, "smoke-1") is None
    store.write_run(make_record("smoke-1"))
    assert earlier_record(store, "smoke-1") == make_record("smoke-1")
    assert store.run_names() == ["smoke-1"]


def test_each_damaged_record_beside_others_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(tmp_path))
    for run in ("smoke-1", "smoke-2", "smoke-3"):
        store.write_run(make_record(run))
    damaged = [tmp_path / f"runs/smoke-{number}/run.json" for number in (1, 3)]
    for file in damaged:
        file.write_bytes(b"{")
    for _ in range(2):  # a plan asks for the runs of several artifacts
        assert [record.run for record in store.runs()] == ["smoke-2"]
    assert [str(file) in line for file, line in zip(damaged, caplog.messages, strict=True)] == [True, True]
    damaged[0].write_bytes(b"[]")
    assert store.find_run("smoke").run == "smoke-2"
    assert len(caplog.messages) == 3, "another damage"


def test_a_record_is_written_as_it_was_read(tmp_path: Path) -> None:
    entry = make_entry("generate", followed=["embed_clip"], items=3, item_name="images", counts={}, notes={})
    failed = make_entry("evaluate", "failed", error="no images", bad_input=True)
    record = make_record("smoke-1", stages=[entry, failed], metrics={"a": 1, "b": float("inf")}, seconds=2.5)
    store = Store(str(tmp_path))
    store.write_run(record)
    written = json.loads((tmp_path / "runs/smoke-1/run.json").read_text())
    assert written["stages"] == [entry, failed]
    assert written["metrics"] == {"a": 1, "b": float("inf")}
    assert written["mlflow"] is None
    assert store.find_run("smoke") == record
    assert set(record.document()) == {"run", "status", "stages", "metrics", "artifacts"}


@pytest.mark.parametrize("name", ["run*", "run?", "run [1]"])
def test_a_remote_store_that_would_be_a_pattern_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"store: found memory://lab/run.*: expected an address without \*, \? and \["):
        Store(f"memory://lab/{name}")


def test_a_store_on_this_machine_may_have_any_name(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run [1]*"))
    store.write_run(make_record("smoke-1"))
    assert store.find_run("smoke").run == "smoke-1"


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_latest_run_s(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path))
    store.write_run(make_record("smoke-1"))
    with pytest.raises(UsageError, match=r"run: found an empty name: expected a run's id"):
        store.find_run(name)


def test_a_record_of_another_run_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(tmp_path))
    store.write_run(make_record("smoke-1"))
    (tmp_path / "runs/smoke-1").rename(tmp_path / "runs/copy-1")
    with pytest.raises(UsageError, match=r"run: found 'smoke-1': expected the name of its folder, 'copy-1': give"):
        store.read_run("copy-1")
    assert list(store.runs()) == []
    assert "copy-1/run.json: run: found 'smoke-1'" in caplog.text


@pytest.mark.parametrize("name", ["../x", "a/b", "a\0b", "..", ".x", "", "a\n"])
def test_what_becomes_a_path_is_a_name(name: str) -> None:
    entry = {"fingerprint": "f", "identity": {}}
    for changes in ({"run": name}, {"plan": {name: entry}}, {"plan": {"generate": entry | {"fingerprint": name}}}):
        with pytest.raises(UsageError, match="String should match pattern"):
            make_record(**{"run": "tiny-1"} | changes)


def test_a_folder_instead_of_a_document_is_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_run(make_record("smoke-1"))
    for name in ("runs/smoke-2/run.json", "runs/smoke-1/heartbeat.json", "runs/smoke-1/logs/generate.jsonl"):
        (tmp_path / name).mkdir(parents=True)
    assert [record.run for record in store.runs()] == ["smoke-1"]
    assert store.read_run("smoke-2") is None
    assert store.read_heartbeat("smoke-1") is None
    assert store.read_log("smoke-1", "generate.jsonl") == b""


def test_a_remote_store_that_nothing_serves_is_one_sentence() -> None:
    store = Store("http://127.0.0.1:9/x")
    for read in (lambda: list(store.runs()), store.run_names, lambda: list(store.artifacts(["embed_clip"]))):
        with pytest.raises(UsageError, match=r"store: http://127.0.0.1:9/x cannot be read: nothing responds"):
            read()


def test_status_refuses_a_store_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text(json.dumps({"format": 99}))
    done = CliRunner().invoke(app, ["status", "--store", str(tmp_path)])
    assert isinstance(done.exception, UsageError)
    assert "has format 99" in str(done.exception)
