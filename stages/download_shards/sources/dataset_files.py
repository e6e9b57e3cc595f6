"""Rows of Arrow and Parquet files from strangers: checked in a child process before they are used in this one.

Arrow's readers trust the offsets in a file: wrong ones are read out of bounds, which ends the process or hands out
memory. So a child reads the same rows first and validates them fully; what it dies of costs these rows alone.
"""

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import ItemLimit
from cluster.isolated_child import Handler, Limits
from cluster.isolation import Isolated
from stages.contract.errors import FailureCause, ItemFault
from stages.contract.parsing import describe_parser_error, parsing
from stages.download_shards.sources.dataset_digests import RowIdentity
from stages.download_shards.sources.dates import has_readable_dates, python_rows

_ROWS_AT_A_TIME = 64
_LIMITS = Limits(memory_bytes=4_000_000_000, cpu_seconds=600.0, wall_seconds=1200.0)


@dataclass(frozen=True)
class Rows:
    """Some rows of a file."""

    file: Path
    first: int
    count: int


class FileChecker:
    """Describes and validates files in a child process, which is started when it is first needed.

    What it cannot read is raised as an ItemFault, whose cause is unreadable_file.
    """

    def __init__(self) -> None:
        self._isolated = Isolated(make_handler, _LIMITS)

    def describe(self, file: Path) -> tuple[pa.Schema, int]:
        """Return schema and number of rows of a file."""
        head, body = self._ask({"file": str(file)})
        return pa.ipc.read_schema(pa.py_buffer(body)), int(head["rows"])

    def validate(self, rows: Rows, columns: Sequence[str]) -> None:
        """Check that these columns of the rows hold what they say."""
        self._ask({"file": str(rows.file), "columns": list(columns), "first": rows.first, "count": rows.count})

    def digests(self, rows: Rows, columns: Sequence[str], identity: RowIdentity) -> bytes:
        """Return the two digests of each row, one after another; they are read and checked in the child alone."""
        asked = {"file": str(rows.file), "columns": list(columns), "first": rows.first, "count": rows.count}
        return self._ask(asked | {"identity": identity.to_json()})[1]

    def is_blank(self, rows: Rows, column: str) -> bool:
        """Return whether a column of floats holds nothing but nulls and NaN, which is a null as pandas writes it."""
        asked = {"file": str(rows.file), "columns": [column], "first": rows.first, "count": rows.count}
        return not self._ask(asked | {"numbers": True})[0]["numbers"]

    def unreadable_dates(self, rows: Rows, columns: Sequence[str]) -> set[str]:
        """Return those of the columns that hold a date which Python does not know."""
        asked = {"file": str(rows.file), "columns": list(columns), "first": rows.first, "count": rows.count}
        return set(self._ask(asked | {"dates": True})[0]["dates"])

    def close(self) -> None:
        """End the child."""
        self._isolated.close()

    def _ask(self, question: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        try:
            head, body = self._isolated(json.dumps(question).encode())
        except ItemLimit as error:
            raise _unreadable(question["file"], str(error)) from None
        if "fault" in head:
            raise _unreadable(question["file"], str(head["fault"]))
        return head, body


def read_batches(rows: Rows, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the columns of rows that were validated."""
    with parsing(FailureCause.UNREADABLE_FILE, rows.file.name):
        yield from _batches(rows, columns)


def make_handler() -> Handler:
    """Return what the child does with a question."""
    return _handle


def _handle(question: bytes) -> tuple[dict[str, Any], bytes]:
    asked = json.loads(question)
    file = Path(asked["file"])
    try:
        if "columns" not in asked:
            return _describe(file)
        digests, numbers, dates = bytearray(), False, set[str]()
        for batch in _batches(Rows(file, asked["first"], asked["count"]), asked["columns"]):
            batch.validate(full=True)
            if "identity" in asked:
                digests += _digests(batch, RowIdentity(**asked["identity"]))
            if "numbers" in asked:
                numbers |= batch.column(0).is_null(nan_is_null=True).false_count > 0
            if "dates" in asked:
                dates |= {name for name in asked["columns"] if not has_readable_dates(batch.column(name))}
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a reader's errors are of many kinds
        return {"fault": describe_parser_error(error)}, b""
    return {"numbers": numbers, "dates": sorted(dates)}, bytes(digests)


def _digests(batch: pa.RecordBatch, identity: RowIdentity) -> bytes:
    """Return the digests of a batch's rows, a few of which are made Python's own at a time."""
    parts = (python_rows(batch.slice(first, _ROWS_AT_A_TIME)) for first in range(0, batch.num_rows, _ROWS_AT_A_TIME))
    return b"".join(identity.digests(row) for rows in parts for row in rows)


def _unreadable(file: str, reason: str) -> ItemFault:
    return ItemFault(FailureCause.UNREADABLE_FILE, f"cannot be read: {Path(file).name}: {reason}")


def _describe(file: Path) -> tuple[dict[str, Any], bytes]:
    with _open(file) as reader:
        if isinstance(reader, pq.ParquetFile):
            schema, rows = reader.schema_arrow, int(reader.metadata.num_rows)
        else:
            schema, rows = reader.schema, sum(batch.num_rows for batch in _whole_batches(reader))
    return {"rows": rows}, schema.serialize().to_pybytes()


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Any]:
    """Open an Arrow file in either of its two forms, memory-mapped, or a Parquet file."""
    if file.suffix.lower() == ".parquet":
        with pq.ParquetFile(file) as parquet:
            yield parquet
        return
    with pa.memory_map(str(file)) as mapped:
        is_file_form = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        with (pa.ipc.open_file if is_file_form else pa.ipc.open_stream)(mapped) as reader:
            yield reader


def _batches(rows: Rows, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the named columns of a range of rows."""
    with _open(rows.file) as reader:
        if isinstance(reader, pq.ParquetFile):
            skip, batches = _parquet_batches(reader, rows, columns)
        else:
            skip, batches = rows.first, _whole_batches(reader)
        left = rows.count
        for batch in batches:
            if left == 0:
                return
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            piece = batch.select(columns).slice(skip, left)
            skip, left = 0, left - piece.num_rows
            yield piece
        if left:
            raise ValueError(f"it ends {left} rows before it says")


def _parquet_batches(
    reader: pq.ParquetFile, rows: Rows, columns: Sequence[str]
) -> tuple[int, Iterator[pa.RecordBatch]]:
    """Return the batches of those row groups that hold the rows, and how many rows of them come before."""
    sizes = [reader.metadata.row_group(number).num_rows for number in range(reader.num_row_groups)]
    ends = list(itertools.accumulate(sizes))
    wanted = [
        number
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
        if end > rows.first and end - size < rows.first + rows.count
    ]
    before = ends[wanted[0]] - sizes[wanted[0]] if wanted else 0
    return rows.first - before, reader.iter_batches(_ROWS_AT_A_TIME, row_groups=wanted, columns=list(columns))


def _whole_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(reader)
