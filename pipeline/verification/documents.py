"""What a store holds beside artifacts: store.json, the records of runs, models from outside, SQLite databases."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.store import Store
from pipeline.tracking_address import own_database
from stages.contract.errors import StageError
from stages.contract.texts import one_line
from stages.formats.stored_models import local_model, model_in

_SHOWN = 200
_DELETE = "delete it: what it holds is read anew"
_RESTORE = "restore it from a copy, or move it away: the next run begins another"


@dataclass(frozen=True)
class DocumentFault:
    """A damaged document of a store, in one sentence."""

    file: str
    message: str


def check_documents(store: Store, runs: list[str]) -> Iterator[DocumentFault | None]:
    """Yield for each document of the store and of these runs what is wrong with it; None: nothing is."""
    try:
        store.check_format()
        yield None
    except UsageError as error:
        yield DocumentFault("store.json", str(error))
    for run in runs:
        try:
            store.read_run(run)
            yield None
        except UsageError as error:
            yield DocumentFault(f"runs/{run}/run.json", str(error))
    for digest in store.model_digests():
        try:
            local_model(model_in(store.uri, digest))
            yield None
        except StageError as error:
            yield DocumentFault(f"models/{digest}", str(error))
    for path, remedy in ((store.digests, _DELETE), (own_database(store.local_root), _RESTORE)):
        if path.is_file():
            found = check_database(path)
            message = f"store: {path}: found {found}: expected a whole SQLite database: {remedy}"
            yield None if found is None else DocumentFault(path.name, message)


def check_database(path: Path) -> str | None:
    """Return what SQLite's own check finds wrong with a database, which is not written to; None: nothing."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as database:
            (first,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        return one_line(error, _SHOWN)
    return None if first == "ok" else one_line(first, _SHOWN)
