"""The logs of a run: runs/<run>/logs/<stage>.jsonl in the store, one JSON document a line, bounded in size.

Lines are written as they come, by the driver alone. Where the store is remote, they are written on the driver's machine
and copied to the store every few seconds.
"""

import datetime
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import BinaryIO

from cluster.signals import signals_held_back
from pipeline.store import Store
from stages.contract.events import Log
from stages.contract.secrets import redact
from stages.contract.texts import one_line, printable

COPY_SECONDS = 5.0
MOST_BYTES = 4 << 20  # of a stage's newest file; one older file of the same size is kept
_MOST_ATTACHMENTS = 20  # files of a stage
_CLOSE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class RunLogs:
    """Writes the logs of one run."""

    def __init__(self, store: Store, run: str) -> None:
        self.folder = store.log_folder(run)
        self._store, self._run = store, run
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        self._attachments: dict[str, int] = {}
        self._over = threading.Event()
        self._copier: threading.Thread | None = None
        if store.local_root is None:
            self._copier = threading.Thread(target=self._copy_until_over, name="corgi-logs", daemon=True)
            with signals_held_back():  # from the thread, so that they reach this one
                self._copier.start()

    def write(self, stage: str, event: Log) -> Log:
        """Append a line, and return it as it is shown: with the path of what was attached to it."""
        message = printable(redact(event.message))
        if event.attachment:
            message += f" ({self._attach(stage, event.attachment)})"
        line = {
            "time": _format_time(event.time or time.time()),
            "level": event.level,
            "run": self._run,
            "stage": stage,
            "shard": one_line(redact(event.shard)),
            "node": one_line(event.node),
            "message": message,
        }
        self._append(stage, line)
        return Log(message, event.level, event.time, event.node, event.shard)

    def close(self) -> None:
        """Copy what is not in the store yet."""
        if self._copier is not None:
            self._over.set()
            self._copier.join(_CLOSE_SECONDS)

    def _append(self, stage: str, line: dict[str, str]) -> None:
        file = self.folder / f"{stage}.jsonl"
        if file.exists() and file.stat().st_size > MOST_BYTES:
            older = file.with_name(f"{stage}.1.jsonl")
            os.replace(file, older)
            note = f"earlier lines are in {older.name}; those before them were left out, to bound the log's size"
            self._write_line(file, line | {"level": "WARNING", "message": note})
            self._note(older.name)
        self._write_line(file, line)

    def _write_line(self, file: Path, line: dict[str, str]) -> None:
        with open(file, "ab+", opener=_private) as opened:
            start = b"\n" if _is_cut_off(opened) else b""  # else this line would be lost with the one before
            opened.write(start + json.dumps(line).encode() + b"\n")
        self._note(file.name)

    def _attach(self, stage: str, text: str) -> str:
        """Write a text too long for a line into a file of its own, and return where it is."""
        number = self._attachments[stage] = self._attachments.get(stage, 0) + 1
        if number > _MOST_ATTACHMENTS:
            return "too many stacks were kept: this one was not"
        file = self.folder / f"{stage}-stack-{number}.txt"
        with open(file, "w", encoding="utf-8", opener=_private) as opened:
            opened.write(printable(redact(text)) + "\n")
        self._note(file.name)
        return f"its stack: {self._store.log_address(self._run, file.name)}"

    def _note(self, name: str) -> None:
        """Note that a file is to be copied; the lock, as the thread that copies takes the names."""
        with self._lock:
            self._changed.add(name)

    def _copy_until_over(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._over.wait(COPY_SECONDS)
            with self._lock:
                changed, self._changed = self._changed, set()
            for name in changed:
                try:
                    self._store.write_log(self._run, name, (self.folder / name).read_bytes())
                except Exception as error:  # noqa: BLE001  whatever the file system raises: the store may come back
                    self._note(name)
                    _log.warning("run %s: logs could not be written to the store (%s)", self._run, one_line(error))


def _is_cut_off(file: BinaryIO) -> bool:
    """Return whether the last line has no end, as a full disk leaves it."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _format_time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def _private(path: str, flags: int) -> int:
    """Open a file that its owner alone reads: logs may quote what others are not to know."""
    return os.open(path, flags, 0o600)
