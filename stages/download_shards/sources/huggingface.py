"""A Hugging Face dataset folder on disk: the Arrow files of ``save_to_disk``, or Parquet files, read by pyarrow."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.download_shards.config import DownloadShardsConfig, HuggingfaceSource
from stages.download_shards.sources.base import Entries, Entry, Parts
from stages.download_shards.sources.rows import make_rows
from stages.download_shards.sources.tables import require_columns
from stages.formats.source_records import SourceRecord

_ROWS_AT_A_TIME = 64
_NO_IMAGE = ItemFault(FailureCause.MISSING_FILE, "no such file: the row holds no image")

Range = tuple[int, int]
"""First row and number of rows, over all files in order."""


class HuggingfaceDataset:
    """Ranges of the rows of a dataset's files, a few images of which are in memory at a time."""

    def __init__(self, source: HuggingfaceSource, config: DownloadShardsConfig) -> None:
        self._source, self._rows_per_shard = source, config.rows_per_shard

    def check(self) -> None:
        """Check that the folder holds a dataset with the configured columns."""
        source = self._source
        for file in _files(source):
            require_columns(source, ("image_column", "caption_column"), file.name, _schema(file).names)

    @contextlib.contextmanager
    def parts(self) -> Iterator[Parts]:
        """Yield the range of rows of each shard."""
        self.check()
        total = sum(_num_rows(file) for file in _files(self._source))
        if total == 0:
            raise InputFault(
                f"download_shards.source.path: {self._source.path} holds no row: give a dataset with at least one"
            )
        step = self._rows_per_shard
        parts = [(start, min(step, total - start)) for start in range(0, total, step)]
        yield Parts(parts, SourceRecord(found=total))

    def read(self, part: Range) -> Entries:
        """Read the rows; a column of bytes or images other than the images' is left out."""
        source, (first, count) = self._source, part
        schema = _schema(_files(source)[0])
        names = [field.name for field in schema if field.name != source.image_column and not _is_binary(field.type)]
        fields = pa.schema([schema.field(name) for name in names])
        table = pa.Table.from_batches(_batches(source, names, part), fields)
        urls = pa.chunked_array([pa.array([f"row-{row}" for row in range(first, first + count)], pa.string())])
        captions = table[source.caption_column] if source.caption_column is not None else None
        extra = table.select([name for name in names if name != source.caption_column])
        rows = make_rows(urls, captions, extra)
        return Entries(rows.schema, _entries(source, rows.to_pylist(), part), lambda: count)


def _entries(source: HuggingfaceSource, rows: list[dict[str, Any]], part: Range) -> Iterator[Entry]:
    images = (value for batch in _batches(source, [source.image_column], part) for value in batch.column(0))
    for index, (row, image) in enumerate(zip(rows, images, strict=True)):
        value = image.as_py()
        stored: dict[str, Any] = value if isinstance(value, dict) else {"bytes": value}
        path, content = stored.get("path"), stored.get("bytes")
        if content is None:
            content = _read_beside(source.path, path) if path else _NO_IMAGE
        yield Entry(index, {**row, "url": path or row["url"]}, content)


def _read_beside(root: Path, name: str) -> bytes | ItemFault:
    """Read an image that the dataset names and does not hold; only from inside its folder."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        return ItemFault(FailureCause.OUTSIDE_FOLDER)
    return path.read_bytes() if path.is_file() else ItemFault(FailureCause.MISSING_FILE)


def _files(source: HuggingfaceSource) -> list[Path]:
    root = source.path
    if (root / "dataset_dict.json").is_file():
        splits = ", ".join(json.loads((root / "dataset_dict.json").read_text())["splits"])
        raise InputFault(
            f"download_shards.source.path: {root} holds several splits ({splits}): one is allowed: "
            "give the folder of one split"
        )
    if (root / "state.json").is_file():
        return [root / file["filename"] for file in json.loads((root / "state.json").read_text())["_data_files"]]
    found = sorted(root.rglob("*.arrow")) or sorted(root.rglob("*.parquet"))
    if not found:
        raise InputFault(
            f"download_shards.source.path: {root}: no .arrow or .parquet file in it: give the folder that "
            "save_to_disk wrote, or one of parquet files"
        )
    return found


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[Any]:
    """Open an Arrow file in either of its two forms, memory-mapped, or a Parquet file."""
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as parquet:
            yield parquet
        return
    with pa.memory_map(str(file)) as mapped:
        is_file_form = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        with (pa.ipc.open_file if is_file_form else pa.ipc.open_stream)(mapped) as reader:
            yield reader


def _schema(file: Path) -> pa.Schema:
    try:
        with _reading(file) as reader:
            return reader.schema_arrow if file.suffix == ".parquet" else reader.schema
    except (pa.ArrowException, OSError) as error:
        raise InputFault(
            f"download_shards.source.path: {file} cannot be read ({str(error).splitlines()[0]}): mend or remove it"
        ) from error


def _read_batches(file: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    with _reading(file) as reader:
        if file.suffix == ".parquet":
            yield from reader.iter_batches(_ROWS_AT_A_TIME, columns=columns)
            return
        whole = (
            (reader.get_batch(index) for index in range(reader.num_record_batches))
            if hasattr(reader, "num_record_batches")
            else reader
        )
        for batch in whole:
            yield batch if columns is None else batch.select(columns)


def _num_rows(file: Path) -> int:
    if file.suffix == ".parquet":
        with _reading(file) as reader:
            return int(reader.metadata.num_rows)
    return sum(batch.num_rows for batch in _read_batches(file, None))


def _batches(source: HuggingfaceSource, columns: Sequence[str], part: Range) -> Iterator[pa.RecordBatch]:
    """Yield the named columns of a range of rows."""
    skip, left = part
    for file in _files(source):
        if left == 0:
            return
        rows = _num_rows(file)
        if skip >= rows:
            skip -= rows
            continue
        for batch in _read_batches(file, columns):
            piece = batch.slice(skip, left)
            skip = max(0, skip - batch.num_rows)
            left -= piece.num_rows
            if piece.num_rows:
                yield piece


def _is_binary(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes or images, for which a shard has no column."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind))
