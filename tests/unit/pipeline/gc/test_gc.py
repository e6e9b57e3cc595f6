"""What a store holds that no kept run needs, and its deletion."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import UsageError
from pipeline.gc.garbage import Choice, find_garbage
from pipeline.gc.removal import remove
from pipeline.heartbeat import Heartbeat
from pipeline.leases import LeaseTimes
from pipeline.store import Store
from tests.factories import make_record

DIGEST = "ab" * 16


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs that share shards, a third artifact of nobody, and two models, of which one is named."""
    store = Store(str(tmp_path / "store"))
    store.open_for_writing()
    for stage, fingerprint in (("download_shards", "d1"), ("train_decoder", "old"), ("train_decoder", "new"),
                               ("embed_clip", "stray")):  # fmt: skip
        artifact = store.output(stage, fingerprint)
        artifact.write_bytes("content", b"x" * 1000)
        artifact.write_bytes("_COMPLETE", b"")
    for digest in (DIGEST, "cd" * 16):
        folder = tmp_path / "store/models" / digest
        folder.mkdir(parents=True)
        (folder / "model.json").write_text("{}")
    write(store, "a-1", "2026-01-01T00:00:00+00:00", {"download_shards": "d1", "train_decoder": "old"})
    write(store, "b-1", "2026-02-01T00:00:00+00:00", {"download_shards": "d1", "train_decoder": "new"},
          identity={"clip": {"models": [{"path": DIGEST}]}})  # fmt: skip
    return store


def write(store: Store, run: str, started: str, plan: dict[str, str], identity: Any = None, **more: Any) -> None:
    planned = {stage: {"fingerprint": name, "identity": identity or {}} for stage, name in plan.items()}
    store.write_run(make_record(run, started=started, plan=planned, **more))


def names(store: Store, **choice: Any) -> set[str]:
    return {f"{item.folder.stage}/{item.folder.fingerprint}" for item in find_garbage(store, Choice(**choice)).items}


def test_what_no_run_names_is_garbage_and_what_one_needs_is_not(store: Store) -> None:
    assert names(store) == {"embed_clip/stray", f"models/{'cd' * 16}"}
    assert find_garbage(store, Choice()).size == 1000 + 2
    assert names(store, runs=("a",)) == {"embed_clip/stray", f"models/{'cd' * 16}", "train_decoder/old", "runs/a-1"}
    assert names(store, keep_last=1) == names(store, runs=("a",))
    assert names(store, keep_last=2) == names(store)
    now = datetime.now(UTC)
    assert names(store, older_than=now - datetime(2026, 1, 15, tzinfo=UTC)) == names(store, runs=("a",))
    everything = names(store, older_than=timedelta(days=0))
    assert everything >= {"download_shards/d1", "train_decoder/new", f"models/{DIGEST}", "runs/a-1", "runs/b-1"}


def test_a_run_that_is_not_over_is_kept(store: Store) -> None:
    write(store, "c-1", "2026-01-01T00:00:00+00:00", {"embed_clip": "stray"}, status="running")
    store.write_heartbeat("c-1", Heartbeat.now(0).model_dump(mode="json"))
    assert "embed_clip/stray" not in names(store, keep_last=0)
    assert "runs/c-1" not in names(store, keep_last=0)
    with pytest.raises(UsageError, match="is not over"):
        find_garbage(store, Choice(runs=("c-1",)))


def test_a_run_that_a_driver_holds_is_left(store: Store) -> None:
    garbage = find_garbage(store, Choice(runs=("a-1",)))
    with Store(store.uri).leasing("a-1", [], LeaseTimes(), print):
        found = {item.what: why for item, why in remove(store, garbage) if item.what == "run"}
    assert "run-a-1" in found["run"]
    assert store.run_names() == ["a-1", "b-1"]


def test_an_unreadable_record_keeps_everything(store: Store, tmp_path: Path) -> None:
    (tmp_path / "store/runs/b-1/run.json").write_text("{")
    with pytest.raises(UsageError, match="is not the record of a run: run its config again"):
        find_garbage(store, Choice())


@pytest.mark.parametrize("name", ["z", ""])
def test_a_name_that_is_not_one_run_s_is_refused(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="give one's id"):
        find_garbage(store, Choice(runs=(name,)))


def test_what_is_deleted_is_gone_and_the_rest_is_whole(store: Store, tmp_path: Path) -> None:
    garbage = find_garbage(store, Choice(runs=("a-1",)))
    assert [why for _, why in remove(store, garbage)] == [""] * 4
    kept = {path.relative_to(tmp_path / "store").as_posix() for path in (tmp_path / "store").rglob("content")}
    assert kept == {"artifacts/download_shards/d1/content", "artifacts/train_decoder/new/content"}
    assert store.run_names() == ["b-1"]
    assert store.model_digests() == [DIGEST]
    assert names(store) == set()


def test_what_a_run_needs_that_has_begun_since_is_left(store: Store, tmp_path: Path) -> None:
    garbage = find_garbage(store, Choice())
    named = {"clip": {"models": [{"path": "cd" * 16}]}}
    write(store, "c-1", "2026-03-01T00:00:00+00:00", {"embed_clip": "stray"}, identity=named)
    found = {item.what: why for item, why in remove(store, garbage)}
    assert found == dict.fromkeys(("artifact", "model"), "a run needs it that has begun since")
    assert (tmp_path / "store/artifacts/embed_clip/stray/_COMPLETE").exists()
    assert "cd" * 16 in store.model_digests()


def test_a_forgotten_run_that_was_started_again_since_is_left_with_what_it_needs(store: Store) -> None:
    garbage = find_garbage(store, Choice(runs=("a-1",)))
    write(store, "a-1", "2026-03-01T00:00:00+00:00", {"download_shards": "d1", "train_decoder": "old"})
    found = {item.what: why for item, why in remove(store, garbage) if why}
    assert found == {"run": "it was started again since", "artifact": "a run needs it that has begun since"}
    assert store.run_names() == ["a-1", "b-1"]
    assert store.artifact("train_decoder", "old").is_complete


def test_a_whole_id_is_one_run_s_though_others_begin_with_it(store: Store) -> None:
    write(store, "a-12", "2026-03-01T00:00:00+00:00", {"embed_clip": "stray"})
    assert list(find_garbage(store, Choice(runs=("a-1",))).forgotten) == ["a-1"]


def test_what_another_driver_makes_is_left(store: Store, tmp_path: Path) -> None:
    garbage = find_garbage(store, Choice())
    other = Store(store.uri)
    with other.lock([store.artifact("embed_clip", "stray")]):
        found = {item.what: why for item, why in remove(store, garbage)}
    assert "embed_clip-stray" in found["artifact"]
    assert (tmp_path / "store/artifacts/embed_clip/stray/content").exists()


def test_the_command_shows_first_and_deletes_when_asked(store: Store) -> None:
    shown = CliRunner().invoke(app, ["gc", "--store", store.uri])
    assert shown.exit_code == 0
    assert "embed_clip/stray" in shown.stdout
    assert "nothing was deleted" in shown.stdout
    assert names(store)
    done = CliRunner().invoke(app, ["gc", "--store", store.uri, "--delete", "--json"])
    document = json.loads(done.stdout)
    assert (document["kept_runs"], document["deleted_bytes"], document["left"]) == (2, 1002, {})
    assert names(store) == set()


def test_the_command_fails_where_something_was_left(store: Store) -> None:
    with Store(store.uri).lock([store.artifact("embed_clip", "stray")]):
        found = CliRunner().invoke(app, ["gc", "--store", store.uri, "--delete", "--json"])
        shown = CliRunner().invoke(app, ["gc", "--store", store.uri, "--delete"])
    assert (found.exit_code, shown.exit_code) == (1, 1)
    document = json.loads(found.stdout)
    assert document["deleted_bytes"] == 2
    assert [uri.rsplit("/", 1)[-1] for uri in document["left"]] == ["stray"]
    assert "left: artifact" in shown.stderr


def test_a_record_that_names_another_folder_keeps_everything(store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    for run in ("../../victim", "b-1"):  # a folder outside the store, and another run's
        content = make_record("a-1").to_json() | {"run": run}
        (tmp_path / "store/runs/a-1/run.json").write_text(json.dumps(content))
        done = CliRunner().invoke(app, ["gc", "--keep-last", "0", "--delete", "--store", store.uri])
        assert isinstance(done.exception, UsageError)
        assert "runs/a-1/run.json: run: " in str(done.exception)
    assert victim.is_dir()
    assert store.run_names() == ["a-1", "b-1"]


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_run_s_also_where_there_is_one_alone(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "store/runs/b-1/run.json").unlink()
    with pytest.raises(UsageError, match="found an empty name"):
        find_garbage(store, Choice(runs=(name,)))


def test_a_folder_instead_of_a_record_keeps_everything(store: Store, tmp_path: Path) -> None:
    (tmp_path / "store/runs/c-1/run.json").mkdir(parents=True)
    with pytest.raises(UsageError, match="the record of run c-1 is another user's, or no file"):
        find_garbage(store, Choice())
