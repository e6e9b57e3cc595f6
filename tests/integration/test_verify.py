"""``corgi verify``: every damaged file of a store is named, on a disk and behind S3."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from pipeline.store import Store
from pipeline.verification.documents import check_database
from pipeline.verification.examine import examine, verification_document, verification_lines
from stages.contract.digests import content_digest
from stages.contract.runner import run_stage
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.stored_models import store_model
from tests.e2e.conftest import corgi
from tests.factories import make_context, make_record, save_image
from tests.s3_server import serve_s3

FINGERPRINT = "f0"
FILES = 3 * 4 + 3 + 4  # of three shards, with their entries' digests; their records; source, manifest, plan, recipe


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index in range(6):
        save_image(tmp_path / "images" / f"{index}.png", color=(40 * index, 10, 10))
    return tmp_path / "images"


def make_store(uri: str, images: Path) -> Store:
    """Make a store of one run and one artifact."""
    store = Store(uri)
    store.open_for_writing()
    source = {"kind": "folder", "path": images}
    config = DownloadShardsConfig.model_validate({"source": source, "rows_per_shard": 2, "image_size": 24})
    output = store.output("download_shards", FINGERPRINT)
    run_stage(run, config, inputs={}, output=output, context=make_context())
    plan = {"download_shards": {"fingerprint": FINGERPRINT, "identity": {}}}
    store.write_run(make_record("one-1", plan=plan))
    return store


def test_a_whole_store_is_whole_and_each_damage_is_named(tmp_path: Path, images: Path) -> None:
    store = make_store(str(tmp_path / "store"), images)
    for name in ("digests.db", "mlflow.db"):
        with sqlite3.connect(tmp_path / "store" / name) as database:
            database.execute("CREATE TABLE notes (text)")
            database.executemany("INSERT INTO notes VALUES (?)", [(f"note {number}" * 50,) for number in range(200)])
        database.close()
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights.bin").write_bytes(bytes(1000))
    digest = content_digest(tmp_path / "model")
    store_model(store.uri, tmp_path / "model", digest)
    whole = examine(None, store.uri, everything=False, set_aside=False)
    assert whole.is_whole
    assert (whole.artifacts[0].files, whole.artifacts[0].without, whole.documents) == (FILES, 0, 5)
    assert list(verification_lines(whole)) == []

    folder = tmp_path / "store/artifacts/download_shards" / FINGERPRINT
    names = ["shards/00000.tar", "shards/00001.parquet", "shards/00002_stats.json", "source.json", "units/00001.json"]
    for name in names:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(content)
    with (tmp_path / "store/mlflow.db").open("r+b") as file:
        file.seek(8192)
        file.write(bytes(4096))
    (tmp_path / f"store/models/{digest}/files/weights.bin").write_bytes(bytes(999) + b"x")
    (tmp_path / "store/runs/two-2").mkdir()
    (tmp_path / "store/runs/two-2/run.json").write_bytes(b"")
    found = verification_document(examine(None, store.uri, everything=True, set_aside=False))
    (artifact,) = found["artifacts"]
    damaged = {one["file"]: one["unit"] for one in artifact["damaged"]}
    # What a damaged record stood for has no checksum any more.
    expected = {name: name.partition("/")[2][:5] or None for name in names if name != "shards/00001.parquet"}
    assert damaged == expected | {"source.json": None}
    assert artifact["without_checksum"] == 4
    assert [one["file"] for one in found["damaged_documents"]] == [
        "runs/two-2/run.json",
        f"models/{digest}",
        "mlflow.db",
    ]
    assert found["status"] == "damaged"


def test_the_command_ends_with_1_and_names_the_remedy_and_sets_aside(tmp_path: Path, images: Path) -> None:
    store = make_store(str(tmp_path / "store"), images)
    folder = tmp_path / "store/artifacts/download_shards" / FINGERPRINT
    assert corgi("verify", "--store", store.uri).code == 0
    os.truncate(folder / "shards/00001.tar", 0)
    (folder / "shards/00002.tar").unlink()
    done = corgi("verify", "one", "--store", store.uri)
    assert done.code == 1
    first, second = done.err.splitlines()
    assert first.startswith(f"download_shards: {folder}/shards/00001.tar: found 0 bytes: expected what was written: ")
    assert f"{folder}/shards/00002.tar: found no file" in second
    done = corgi("verify", str(folder), "--set-aside", "--json")
    assert done.code == 1
    assert done.document["artifacts"][0]["set_aside"] == ["00001", "00002"]
    assert (folder / "damaged/shards/00001.tar").stat().st_size == 0
    assert not store.artifact("download_shards", FINGERPRINT).is_complete
    make_store(store.uri, images)  # as the next run does
    assert corgi("verify", "--all", "--store", store.uri).code == 0


def test_a_store_behind_s3_is_verified_likewise(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3() as server:
        for name, value in (server.environment | {"CORGI_CACHE": str(tmp_path / "cache")}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("fsspec.config.conf", {"s3": {"endpoint_url": server.endpoint}})
        store = make_store(server.uri(), images)
        artifact = store.artifact("download_shards", FINGERPRINT)
        fs = server.file_system()
        content = bytearray(fs.cat_file(f"{artifact.uri}/shards/00001.tar"))
        content[700] ^= 1
        fs.pipe_file(f"{artifact.uri}/shards/00001.tar", bytes(content))
        fs.rm_file(f"{artifact.uri}/shards/00000.parquet")
        found = examine(artifact.uri, store.uri, everything=False, set_aside=True)
        assert {error.name for error in found.artifacts[0].damaged} == {"shards/00000.parquet", "shards/00001.tar"}
        make_store(store.uri, images)
        assert examine(None, store.uri, everything=True, set_aside=False).is_whole
        assert fs.exists(f"{artifact.uri}/damaged/shards/00001.tar")


@pytest.mark.parametrize("damage", ["cut", "no-database", "empty"])
def test_a_damaged_database_is_recognised(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE notes (text)")
        database.executemany("INSERT INTO notes VALUES (?)", [("x" * 500,)] * 100)
    database.close()
    assert check_database(path) is None
    match damage:
        case "cut":
            os.truncate(path, path.stat().st_size // 2)
        case "no-database":
            path.write_bytes(b"no database" * 1000)
        case "empty":
            shutil.copy(os.devnull, path)
    assert (check_database(path) is None) == (damage == "empty")  # an empty file is an empty database
