"""What ``corgi verify`` reads beside artifacts: the two databases, wherever they lie."""

import sqlite3
from pathlib import Path

import pytest

from pipeline.store import Store
from pipeline.tracking_address import default_tracking_uri, sqlite_path
from pipeline.verification.documents import check_documents


def _make_database(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE notes (text)")
        database.executemany("INSERT INTO notes VALUES (?)", [("note" * 200,)] * 200)
    database.close()


@pytest.mark.parametrize("uri", ["local", "memory://documents"])
def test_both_databases_of_a_store_are_read_on_this_machine(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store = Store(str(tmp_path / "store") if uri == "local" else uri)
    store.open_for_writing()
    tracking = sqlite_path(default_tracking_uri(store.local_root))
    assert tracking is not None
    for path in (store.digests, tracking):
        path.unlink(missing_ok=True)
        _make_database(path)
    assert [fault for fault in check_documents(store, []) if fault] == []
    for path in (store.digests, tracking):
        with path.open("r+b") as file:
            file.seek(8192)
            file.write(bytes(4096))
    faults = [fault for fault in check_documents(store, []) if fault]
    assert [fault.file for fault in faults] == ["digests.db", "mlflow.db"]
    assert all(str(path) in fault.message for path, fault in zip((store.digests, tracking), faults, strict=True))
