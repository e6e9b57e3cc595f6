"""The lines of a run's logs, also while they are written."""

import json
import time
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.console import PlainTable
from pipeline.errors import UsageError
from pipeline.heartbeat import life_of
from pipeline.record import RunRecord
from pipeline.store import Store
from pipeline.terminal import indented

FOLLOW_SECONDS = 1.0
_LONGEST_LINE = 64_000  # bytes; a longer one is not ours


class LogLine(BaseModel):
    """A line of a log as it was written."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    time: str
    level: str
    run: str
    stage: str
    shard: str
    node: str
    message: str

    def text(self) -> str:
        """Return the line for a terminal."""
        where = " ".join(part for part in (self.shard, f"@{self.node}" if self.node else "") if part)
        text = f"{self.time[:19]} {self.stage} {self.level.lower()}{f' [{where}]' if where else ''}: {self.message}"
        return indented(text)


class RunLogReader:
    """Reads what was added to a run's logs since the last time."""

    def __init__(self, store: Store, record: RunRecord, stage: str | None) -> None:
        if stage is not None and stage not in record.plan:
            raise UsageError(
                f"stage {stage}: found no such stage in run {record.run}: expected one of {', '.join(record.plan)}"
            )
        self._store, self._run = store, record.run
        self._stages = list(record.plan) if stage is None else [stage]
        self._read = {name: b"" for name in self._stages}
        self.damaged = 0

    def new_lines(self) -> list[LogLine]:
        """Return the lines that were added, of all stages, by their time."""
        lines = [line for stage in self._stages for line in self._parse(self._added(stage))]
        return sorted(lines, key=lambda line: line.time)

    def _added(self, stage: str) -> bytes:
        older, newest = (self._store.read_log(self._run, name) for name in (f"{stage}.1.jsonl", f"{stage}.jsonl"))
        before, self._read[stage] = self._read[stage], newest[: newest.rfind(b"\n") + 1]
        if before and newest.startswith(before):
            return self._read[stage][len(before) :]
        if before and older.startswith(before):
            return older[len(before) :] + self._read[stage]
        return older + self._read[stage]

    def _parse(self, content: bytes) -> Iterator[LogLine]:
        for line in content.splitlines():
            try:
                if len(line) > _LONGEST_LINE:
                    raise ValueError("too long")
                yield LogLine.model_validate(json.loads(line))
            except (ValueError, RecursionError, ValidationError):
                self.damaged += 1


def log_table(lines: Sequence[LogLine], title: str, count: int) -> PlainTable:
    """Return the newest of so many lines as a table."""
    left = f", the newest {len(lines)} lines of {count}" if len(lines) < count else ""
    table = PlainTable(title=f"{title}{left}", box=None)
    for heading in ("time", "stage", "level", "node", "shard", "message"):
        table.heading(heading, no_wrap=heading == "time")
    for line in lines:
        table.row(line.time[:19], line.stage, line.level.lower(), line.node, line.shard, line.message)
    return table


def lines_until_over(reader: RunLogReader, record: RunRecord, store: Store) -> Iterator[LogLine]:
    """Yield lines as they are added, until nobody drives the run any more."""
    while True:
        found = store.read_run(record.run)
        is_over = found is None or life_of(found, store).status != "running"
        yield from reader.new_lines()
        if is_over:
            return
        time.sleep(FOLLOW_SECONDS)
