"""The rows of every source in one form: columns (caption,) (captions,) url, then those of the source's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.owned_folders import scratch_folder

RESERVED = (
    *("caption", "captions", "url", "key", "status", "error_message"),
    *("width", "height", "original_width", "original_height", "sha256"),
)


def make_rows(urls: pa.ChunkedArray, captions: pa.ChunkedArray | None, extra: pa.Table) -> pa.Table:
    """Join addresses, captions (strings, or lists of them) and further columns into rows.

    ``caption`` is the first caption that is not blank, or null; ``captions`` lists all of them and exists only where
    the source's column holds lists. A further column whose name is reserved is kept as ``source_<name>``.
    """
    columns: dict[str, Any] = {}
    if captions is not None and _is_list(captions.type):
        lists = [clean_captions(values) for values in captions.to_pylist()]
        columns["caption"] = pa.array([found[0] if found else None for found in lists], pa.string())
        columns["captions"] = pa.array([found or None for found in lists], pa.list_(pa.string()))
    elif captions is not None:
        texts = captions.cast(pa.string())
        columns["caption"] = pc.if_else(
            pc.equal(pc.utf8_trim_whitespace(texts), ""), pa.scalar(None, pa.string()), texts
        )
    columns["url"] = urls.cast(pa.string())
    taken = set(extra.column_names)
    for name in extra.column_names:  # the column of faults among them, as it is
        kept = name
        while kept in RESERVED or (kept != name and kept in taken):
            kept = f"source_{kept}"
        columns[kept] = extra[name]
    return pa.table(columns)


def on_disk(rows: pa.Table) -> pa.Table:
    """Return the same rows in a memory-mapped file, so that the system may drop pages that are not in use.

    The file is in the folder for temporary files, already unlinked, and goes when the table does.
    """
    with scratch_folder("rows") as folder:
        file = str(folder / "rows.arrow")
        with pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)
        return pa.ipc.open_file(pa.memory_map(file)).read_all()


def clean_captions(values: Any) -> list[str]:
    """Return those captions that are not blank of a text, a list of texts or None."""
    if values is None:
        return []
    listed = values if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    return [str(value) for value in listed if value is not None and str(value).strip()]


def caption_column(captions: Sequence[Sequence[str]]) -> pa.ChunkedArray:
    """Return a column of each image's captions: of texts where no image has several, else of lists."""
    if any(len(found) > 1 for found in captions):
        return pa.chunked_array([pa.array([list(found) or None for found in captions], pa.list_(pa.string()))])
    return pa.chunked_array([pa.array([found[0] if found else None for found in captions], pa.string())])


@dataclass(frozen=True)
class RowPart:
    """One shard's rows of a table. Pickled, it is those rows alone, as an Arrow file."""

    table: pa.Table
    first: int
    count: int
    numbers: tuple[int, ...] | None = None
    """Which rows, in this order; None: ``count`` rows from ``first`` on."""

    def rows(self) -> pa.Table:
        """Return the rows."""
        if self.numbers is not None:
            return self.table.take(pa.array(self.numbers, pa.int64()))
        return self.table.slice(self.first, self.count)

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the bytes only now: the parts of all shards together may not fit into memory."""
        sink, rows = pa.BufferOutputStream(), self.rows()
        with pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        return _unpickle, (sink.getvalue().to_pybytes(),)


def take(table: pa.Table, numbers: Sequence[int]) -> RowPart:
    """Return the part that holds some rows of a table."""
    return RowPart(table, 0, len(numbers), tuple(numbers))


def cut(table: pa.Table, rows_per_part: int) -> list[RowPart]:
    """Cut a table into parts of ``rows_per_part`` rows, the last of which may have fewer."""
    return [RowPart(table, first, rows_per_part) for first in range(0, table.num_rows, rows_per_part)]


def _unpickle(content: bytes) -> RowPart:
    table = pa.ipc.open_file(content).read_all()
    return RowPart(table, 0, table.num_rows)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
