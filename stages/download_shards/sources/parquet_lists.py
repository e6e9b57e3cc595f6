"""Lists in Parquet files: their rows come from a child process as strings and plain types."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from cluster.isolated_child import Handler
from stages.download_shards.sources.column_types import with_plain_types
from stages.download_shards.sources.columns import Wanted, refuse_own, refuse_repeated, with_texts
from stages.formats.foreign_parquet import ParquetReader, handler, on_this_machine


class ParquetRows:
    """Reads lists in one child process, which starts with the first of them; use it as a context."""

    def __init__(self) -> None:
        self._reader = ParquetReader(make_handler)

    def __enter__(self) -> "ParquetRows":
        return self

    def __exit__(self, *error: object) -> None:
        """End the child."""
        self._reader.__exit__(*error)

    def names(self, file: str) -> list[str]:
        """Return the names of a file's columns."""
        with on_this_machine(file) as path:
            return _checked(self._reader.footer(path).names)

    def tables(self, file: str, wanted: Wanted) -> Iterator[pa.Table]:
        """Yield the row groups of a file, with texts and plain types."""
        with on_this_machine(file) as path:
            footer = self._reader.footer(path)
            _checked(footer.names)
            yield from self._reader.groups(path, footer, {"address": wanted.address, "caption": wanted.caption})


def _checked(names: tuple[str, ...]) -> list[str]:
    refuse_own(names)
    refuse_repeated(names)
    return list(names)


def make_handler() -> Handler:
    """Return what the child does with a question."""
    return handler(_convert)


def _convert(table: pa.Table, asked: dict[str, Any]) -> pa.Table:
    wanted = Wanted(asked["address"], asked["caption"])
    return with_plain_types(with_texts(table, wanted), wanted.texts)
