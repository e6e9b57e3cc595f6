"""Parquet files of strangers, footer and rows, read in a child process with limits.

A file of a few bytes may say that it holds a million times as many, and Arrow's readers trust much of what a file says.
What the child dies of, or needs too much for, costs the file and not the process that asks. What comes from the child
is validated whole, since a file may have taken it over.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import ItemLimit
from cluster.isolated_child import Handler, Limits
from cluster.isolation import Isolated
from cluster.owned_folders import scratch_folder
from stages.contract.parsing import Unreadable, describe_parser_error
from stages.storage.filesystems import is_remote, open_address

_LIMITS = Limits(memory_bytes=4_000_000_000, cpu_seconds=600.0, wall_seconds=1200.0)
_MOST_BYTES, _MOST_TIMES = 1_000_000_000, 100  # of a file's rows in memory: the larger of the two

Convert = Callable[[pa.Table, dict[str, Any]], pa.Table]
"""What the child makes of a row group, by what was asked; it may raise Unreadable."""


@dataclass(frozen=True)
class Footer:
    """What the end of a file says of it."""

    names: tuple[str, ...]
    groups: int


class ParquetReader:
    """Reads files in one child process, which starts with the first of them; use it as a context.

    ``make`` is a function of a module that returns ``handler(convert)``. All methods raise Unreadable for a file that
    is damaged, or larger than it may be.
    """

    def __init__(self, make: Callable[[], Handler]) -> None:
        self._isolated = Isolated(make, _LIMITS)

    def __enter__(self) -> "ParquetReader":
        return self

    def __exit__(self, *error: object) -> None:
        """End the child."""
        self._isolated.close()

    def footer(self, path: Path) -> Footer:
        """Return the names of a file's columns, and how many row groups it has."""
        head, _ = self._ask("its footer", {"file": str(path)})
        return Footer(tuple(map(str, head["names"])), int(head["groups"]))

    def groups(
        self, path: Path, footer: Footer, asked: Mapping[str, Any], columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Yield the row groups of a file, or some columns of them; an empty table where there are none.

        ``asked`` is what ``convert`` gets, as JSON.
        """
        held, size = 0, path.stat().st_size
        for group in range(max(footer.groups, 1)):
            question = {"file": str(path), "group": group, "columns": columns and list(columns)}
            _, body = self._ask(f"row group {group}", question | {"asked": dict(asked)})
            table = pa.ipc.open_stream(body).read_all()
            table.validate(full=True)
            held += table.nbytes
            if held > max(_MOST_BYTES, _MOST_TIMES * size):
                raise Unreadable(f"its {size} bytes hold more than {_MOST_TIMES} times as many")
            yield table

    def _ask(self, what: str, question: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        try:
            head, body = self._isolated(json.dumps(question).encode())
        except ItemLimit as error:
            raise Unreadable(f"{what} {error}") from None
        if "fault" in head:
            raise Unreadable(str(head["fault"]), str(head.get("remedy", "")))
        return head, body


@contextlib.contextmanager
def on_this_machine(file: str) -> Iterator[Path]:
    """Yield a path of a file here or at a remote address."""
    if not is_remote(file):
        yield Path(file)
        return
    fs, path = open_address(file)
    with scratch_folder("parquet") as folder:
        fs.get_file(path, f"{folder}/rows.parquet")
        yield folder / "rows.parquet"


def handler(convert: Convert) -> Handler:
    """Return what the child does with a question."""

    def handle(question: bytes) -> tuple[dict[str, Any], bytes]:
        asked = json.loads(question)
        try:
            return _reply(asked, convert)
        except Unreadable as error:
            return {"fault": str(error), "remedy": error.remedy}, b""
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  a reader's errors are of many kinds
            return {"fault": describe_parser_error(error)}, b""

    return handle


def _reply(asked: dict[str, Any], convert: Convert) -> tuple[dict[str, Any], bytes]:
    with pq.ParquetFile(asked["file"], memory_map=True) as opened:
        if "group" not in asked:
            return {"names": opened.schema_arrow.names, "groups": opened.num_row_groups}, b""
        # Group by group: Arrow cannot join some types of several.
        if opened.num_row_groups:
            table = opened.read_row_group(asked["group"], columns=asked["columns"])
        else:
            table = opened.schema_arrow.empty_table()
    sink = pa.BufferOutputStream()
    table = convert(table, asked["asked"])
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return {}, sink.getvalue().to_pybytes()
