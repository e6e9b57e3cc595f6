"""Lists in Parquet files: the rows are read and checked in a child process, and come from there as strings and numbers.

A file of a few bytes may say that it holds a million times as many, and Arrow's readers trust much of what a file says.
What the child dies of, or needs too much for, costs the list and not the driver.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import ItemLimit
from cluster.isolated_child import Handler, Limits
from cluster.isolation import Isolated
from stages.contract.parsing import describe_parser_error
from stages.download_shards.sources.column_types import with_plain_types
from stages.download_shards.sources.columns import Wanted, refuse_own, refuse_repeated, with_texts
from stages.download_shards.sources.text_files import Unreadable, open_binary
from stages.storage.filesystems import is_remote, open_address

_LIMITS = Limits(memory_bytes=4_000_000_000, cpu_seconds=600.0, wall_seconds=1200.0)
_MOST_BYTES, _MOST_TIMES = 1_000_000_000, 100  # of a file's rows in memory: the larger of the two


def read_names(file: str) -> list[str]:
    """Return the names of a file's columns."""
    with open_binary(file) as stream, pq.ParquetFile(stream) as opened:
        names = list(opened.schema_arrow.names)
    refuse_own(names)
    refuse_repeated(names)
    return names


class ParquetRows:
    """Reads files in one child process, which starts with the first of them; use it as a context."""

    def __init__(self) -> None:
        self._isolated = Isolated(make_handler, _LIMITS)

    def __enter__(self) -> "ParquetRows":
        return self

    def __exit__(self, *error: object) -> None:
        """End the child."""
        self._isolated.close()

    def tables(self, file: str, wanted: Wanted) -> Iterator[pa.Table]:
        """Yield the row groups of a file, with texts and plain types."""
        read_names(file)
        with _local(file) as path:
            with pq.ParquetFile(path) as opened:
                groups = opened.num_row_groups
            size, held = path.stat().st_size, 0
            for group in range(max(groups, 1)):
                question = {"file": str(path), "group": group, "address": wanted.address, "caption": wanted.caption}
                table = self._ask(question)
                held += table.nbytes
                if held > max(_MOST_BYTES, _MOST_TIMES * size):
                    raise Unreadable(f"its {size} bytes hold more than {_MOST_TIMES} times as many")
                yield table

    def _ask(self, question: dict[str, Any]) -> pa.Table:
        try:
            head, body = self._isolated(json.dumps(question).encode())
        except ItemLimit as error:
            raise Unreadable(f"row group {question['group']} {error}") from None
        if "fault" in head:
            raise Unreadable(str(head["fault"]), str(head.get("remedy", "")))
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)  # a child that a file has taken over may send anything
        return table


@contextlib.contextmanager
def _local(file: str) -> Iterator[Path]:
    """Yield a path of the file on this machine."""
    if not is_remote(file):
        yield Path(file)
        return
    fs, path = open_address(file)
    with tempfile.TemporaryDirectory(prefix="corgi-list-") as folder:
        fs.get_file(path, f"{folder}/list.parquet")
        yield Path(folder) / "list.parquet"


def make_handler() -> Handler:
    """Return what the child does with a question."""
    return _handle


def _handle(question: bytes) -> tuple[dict[str, Any], bytes]:
    asked = json.loads(question)
    try:
        table = _read(Path(asked["file"]), asked["group"], asked["address"], asked["caption"])
    except Unreadable as error:
        return {"fault": str(error), "remedy": error.remedy}, b""
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a reader's errors are of many kinds
        return {"fault": describe_parser_error(error)}, b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return {}, sink.getvalue().to_pybytes()


def _read(file: Path, group: int, address: str, caption: str | None) -> pa.Table:
    with pq.ParquetFile(file, memory_map=True) as opened:
        # Group by group: Arrow cannot join some types of several.
        table = opened.read_row_group(group) if opened.num_row_groups else opened.schema_arrow.empty_table()
    wanted = Wanted(address, caption)
    return with_plain_types(with_texts(table, wanted), wanted.texts)
