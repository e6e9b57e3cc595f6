"""A Hugging Face dataset folder on disk: the Arrow files of ``save_to_disk``, or Parquet files, read by pyarrow."""

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.contract.digests import file_digest
from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.contract.parsing import Unreadable, parsing, shown
from stages.download_shards.config import DownloadShardsConfig, HuggingfaceSource
from stages.download_shards.growth import DIGEST_BYTES, MOST_ENTRIES, Digests, as_digests
from stages.download_shards.http.fetch import recorded_name
from stages.download_shards.sources.base import Entries, Entry, Growth, Parts
from stages.download_shards.sources.column_kinds import holds_bytes, is_image, is_text_or_texts
from stages.download_shards.sources.column_types import storable
from stages.download_shards.sources.columns import refuse_repeated
from stages.download_shards.sources.dataset_digests import RowIdentity, path_and_content, read_inside
from stages.download_shards.sources.dataset_files import FileChecker, Rows, read_batches
from stages.download_shards.sources.dataset_layout import dataset_files
from stages.download_shards.sources.dates import holds_dates, python_value
from stages.download_shards.sources.missing_files import Missing
from stages.download_shards.sources.rows import make_rows
from stages.download_shards.sources.tables import require_columns
from stages.formats.source_records import SourceRecord

_ROWS_AT_ONCE = 65_536  # whose digests are asked for together
_NO_IMAGE = ItemFault(FailureCause.MISSING_FILE, "no such file: the row holds no image")


@dataclass(frozen=True)
class Part:
    """Rows of one or more files, in order, with those columns of each that are kept beside its image."""

    pieces: tuple[tuple[Rows, tuple[str, ...]], ...]
    fields: pa.Schema
    texts: frozenset[str] = frozenset()
    """Columns whose dates are kept as texts in all parts, as Python does not know one of them in some part."""

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(rows.count for rows, _ in self.pieces)


@dataclass(frozen=True)
class _File:
    path: Path
    schema: pa.Schema
    rows: int


class HuggingfaceDataset:
    """Ranges of the rows of a dataset's files, a few images of which are in memory at a time."""

    def __init__(self, source: HuggingfaceSource, config: DownloadShardsConfig) -> None:
        self._source, self._rows_per_shard, self._max_bytes = source, config.rows_per_shard, config.max_bytes
        self._checker = FileChecker()

    def check(self) -> None:
        """Check that the folder holds one dataset with the configured columns."""
        self._files()
        self._checker.close()

    @contextlib.contextmanager
    def parts(self) -> Iterator[Parts]:
        """Yield the range of rows of each shard."""
        files, missing = self._files()
        total = sum(file.rows for file in files)
        if total == 0:
            raise InputFault(
                f"download_shards.source.path: {self._source.path} holds no row: give a dataset with at least one"
            )
        fields = _kept_fields(self._source, files)
        texts = self._columns_of_texts(files, fields)
        step = self._rows_per_shard
        parts = [
            Part(_pieces(files, fields, first, min(step, total - first)), fields, texts)
            for first in range(0, total, step)
        ]
        growth = None
        if total <= MOST_ENTRIES:
            own, earlier = self._digests(files, fields)
            growth = Growth(own, functools.partial(_part_of, files, fields, texts), step, lambda: [earlier])
        self._checker.close()
        yield Parts(parts, SourceRecord(found=total, missing_files=missing.count), growth=growth)

    def _columns_of_texts(self, files: Sequence[_File], fields: pa.Schema) -> frozenset[str]:
        """Return the kept columns that hold a date which Python does not know; only those of dates are read."""
        found: set[str] = set()
        for file in files:
            names = [name for name in _stored_names(file, fields) if holds_dates(fields.field(name).type)]
            if left := [name for name in names if name not in found]:
                with contextlib.suppress(ItemFault):  # it is damaged: the rows that can be read look for themselves
                    found |= self._checker.unreadable_dates(Rows(file.path, 0, file.rows), left)
        return frozenset(found)

    def _digests(self, files: Sequence[_File], fields: pa.Schema) -> tuple[Digests, Digests]:
        """Return the digest of each row, and that of earlier versions; of lost rows both are one of the whole file."""
        source, both = self._source, bytearray()
        types = fields.to_string(show_field_metadata=False, show_schema_metadata=False)
        names = tuple(fields.names)
        identity = RowIdentity(
            str(source.path), source.image_column, names, types, self._max_bytes, source.caption_column
        )
        for file in files:
            columns = [*_stored_names(file, fields), source.image_column]
            for first in range(0, file.rows, _ROWS_AT_ONCE):
                rows = Rows(file.path, first, min(_ROWS_AT_ONCE, file.rows - first))
                try:
                    both += self._checker.digests(rows, columns, identity)
                except ItemFault:
                    lost = hashlib.blake2b(file_digest(file.path) + str(first).encode(), digest_size=DIGEST_BYTES)
                    both += lost.digest() * (2 * rows.count)
        own, earlier = (
            as_digests(bytes(both[at : at + DIGEST_BYTES]) for at in range(start, len(both), 2 * DIGEST_BYTES))
            for start in (0, DIGEST_BYTES)
        )
        return own, earlier

    def read(self, part: Part) -> Entries:
        """Read the rows; a column of bytes or images other than the images' is left out.

        Rows of a file that is not valid are lost, and the others are read.
        """
        source = self._source
        found = [self._beside(rows, names, part.fields) for rows, names in part.pieces]
        faults = [one if isinstance(one, ItemFault) else None for one in found]
        table = pa.concat_tables(
            _nulls(part.fields, rows.count) if isinstance(one, ItemFault) else one
            for one, (rows, _) in zip(found, part.pieces, strict=True)
        )
        captions = table[source.caption_column] if source.caption_column is not None else None
        extra = pa.table(
            {
                name: storable(table[name], dates_as_texts=name in part.texts)
                for name in part.fields.names
                if name != source.caption_column
            }
        )
        rows = make_rows(pa.chunked_array([pa.nulls(part.count, pa.string())]), captions, extra)
        return Entries(rows.schema, self._entries(part, faults, rows.to_pylist()), lambda: part.count)

    def _beside(self, rows: Rows, names: Sequence[str], fields: pa.Schema) -> pa.Table | ItemFault:
        """Return the columns beside the images, or why the rows cannot be used."""
        try:
            self._checker.validate(rows, [*names, self._source.image_column])
            return _table(rows, names, fields)
        except ItemFault as fault:
            return fault

    def _files(self) -> tuple[list[_File], Missing]:
        """Describe the files, of which no two have a column of different types, and those that are missing."""
        source = self._source
        found, files = dataset_files(source), []
        for path in found.paths:
            try:
                file = _File(path, *self._checker.describe(path))
            except ItemFault as fault:
                raise InputFault(f"download_shards.source.path: {shown(path)} {fault}: mend or remove it") from None
            _require_names(source, file)
            require_columns(source, ("image_column", "caption_column"), path.name, file.schema.names)
            file = self._with_blank_captions(file)
            _require_kinds(source, file)
            files.append(file)
        return files, found.missing

    def _with_blank_captions(self, file: _File) -> _File:
        """Return the file with captions that are all null, where they are floats without any number: pandas' nulls."""
        name = self._source.caption_column
        if name is None or not pa.types.is_floating(file.schema.field(name).type):
            return file
        with contextlib.suppress(ItemFault):  # it is damaged, and whether it holds numbers is not known
            if self._checker.is_blank(Rows(file.path, 0, file.rows), name):
                schema = file.schema.set(file.schema.get_field_index(name), pa.field(name, pa.null()))
                return replace(file, schema=schema)
        return file

    def _entries(
        self, part: Part, faults: Sequence[ItemFault | None], rows: Sequence[dict[str, Any]]
    ) -> Iterator[Entry]:
        left = iter(enumerate(rows))
        for (piece, _), fault in zip(part.pieces, faults, strict=True):
            images = itertools.repeat(fault, piece.count) if fault else _values(piece, self._source.image_column)
            for (index, row), value in zip(itertools.islice(left, piece.count), images, strict=True):
                path, content = self._image(value)
                name = _content_name(value)
                yield Entry(index, {**row, "url": recorded_name(path) if path else name}, content, name)

    def _image(self, value: Any) -> tuple[str | None, bytes | ItemFault]:
        """Return the path in a row, if any, and the image: in the row, or in a file of the folder."""
        if isinstance(value, ItemFault):
            return None, value
        path, content = path_and_content(value)
        if content is None:
            return path, self._read_beside(path) if path else _NO_IMAGE
        if len(content) > self._max_bytes:
            return path, ItemFault(FailureCause.FILE_TOO_LARGE)
        return path, content

    def _read_beside(self, name: str) -> bytes | ItemFault:
        """Read an image that the dataset names and does not hold; only from inside its folder."""
        try:
            with parsing(FailureCause.UNREADABLE_FILE, name):
                return read_inside(self._source.path, name, self._max_bytes)
        except ItemFault as fault:
            return fault


def _content_name(value: Any) -> str | None:
    """Return the hash of an image that lies in its row, whose path need be no one's alone; None: it lies in a file."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return f"sha256:{hashlib.sha256(content).hexdigest()}" if isinstance(content, bytes) else None


def _table(rows: Rows, names: Sequence[str], fields: pa.Schema) -> pa.Table:
    """Return columns of rows; those that the file lacks are null."""
    own = pa.schema([fields.field(name) for name in names])
    table = pa.Table.from_batches(read_batches(rows, names), own) if names else _nulls(own, rows.count)
    columns = [table[field.name] if field.name in names else pa.nulls(rows.count, field.type) for field in fields]
    return pa.table(columns, schema=fields)


def _nulls(fields: pa.Schema, count: int) -> pa.Table:
    return pa.table([pa.nulls(count, field.type) for field in fields], schema=fields)


def _values(rows: Rows, column: str) -> Iterator[Any]:
    """Yield the values of a column; where it cannot be read any further, the reason for each row that is left."""
    left = rows.count
    try:
        for batch in read_batches(rows, [column]):
            for value in batch.column(0):
                yield python_value(value)
                left -= 1
    except ItemFault as fault:
        yield from itertools.repeat(fault, left)


def _pieces(
    files: Sequence[_File], fields: pa.Schema, first: int, count: int
) -> tuple[tuple[Rows, tuple[str, ...]], ...]:
    """Return the rows of each file that a range over all files covers."""
    pieces, skip, left = [], first, count
    for file in files:
        taken = min(max(file.rows - skip, 0), left)
        if taken:
            pieces.append((Rows(file.path, skip, taken), _stored_names(file, fields)))
            left -= taken
        skip = max(skip - file.rows, 0)
    return tuple(pieces)


def _stored_names(file: _File, fields: pa.Schema) -> tuple[str, ...]:
    """Return the kept columns of which a file holds values; those of the type null hold none."""
    types = {field.name: field.type for field in file.schema}
    return tuple(name for name in fields.names if name in types and not pa.types.is_null(types[name]))


def _part_of(files: Sequence[_File], fields: pa.Schema, texts: frozenset[str], numbers: Sequence[int]) -> Part:
    """Return the part that holds the rows of these numbers over all files, in their order."""
    pieces: list[tuple[Rows, tuple[str, ...]]] = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        pieces += _pieces(files, fields, found[0], len(found))
    return Part(tuple(pieces), fields, texts)


def _kept_fields(source: HuggingfaceSource, files: Sequence[_File]) -> pa.Schema:
    """Return the columns of all files that are kept beside the images; each has one type."""
    fields: dict[str, pa.Field] = {}
    for file in files:
        for field in file.schema:
            if field.name == source.image_column or holds_bytes(field.type):
                continue
            known = fields.setdefault(field.name, pa.field(field.name, field.type))
            if pa.types.is_null(known.type):  # a file without any value of a column says nothing of its type
                fields[field.name] = pa.field(field.name, field.type)
            elif known.type != field.type and not pa.types.is_null(field.type):
                raise InputFault(
                    f"download_shards.source.path: {file.path.name}: column {shown(field.name)} is "
                    f"{shown(field.type)}, but {shown(known.type)} in {files[0].path.name}: expected one type: give "
                    "files of one dataset"
                )
    return pa.schema(list(fields.values()))


def _require_names(source: HuggingfaceSource, file: _File) -> None:
    """Refuse columns of one name, and images' fields of one name: which of them is meant is not known.

    Other columns with fields are left out (see :func:`holds_bytes`).
    """
    try:
        refuse_repeated(file.schema.names)
        for field in file.schema:
            if field.name == source.image_column and pa.types.is_struct(field.type):
                refuse_repeated([one.name for one in field.type])
    except Unreadable as error:
        raise InputFault(
            f"download_shards.source.path: {shown(file.path)} cannot be read ({error}): {error.remedy}"
        ) from None


def _require_kinds(source: HuggingfaceSource, file: _File) -> None:
    """Refuse columns of images or captions whose values have another shape than what is read."""
    image = file.schema.field(source.image_column).type
    if not is_image(image):
        raise InputFault(
            f"download_shards.source.image_column: {file.path.name}: column {source.image_column!r} is "
            f"{shown(image)}: allowed are a struct of bytes and path, bytes, or paths as text: name another column"
        )
    if source.caption_column is None:
        return
    caption = file.schema.field(source.caption_column).type
    if not is_text_or_texts(caption):
        raise InputFault(
            f"download_shards.source.caption_column: {file.path.name}: column {source.caption_column!r} is "
            f"{shown(caption)}: allowed are texts, or lists of texts: name another column"
        )
