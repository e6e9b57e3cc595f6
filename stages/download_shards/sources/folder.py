"""A folder tree of images: the driver lists names, the workers read images and the captions beside them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from stages.contract.digests import content_digests
from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.contract.parsing import MAX_JSON_BYTES, load_json, parsing
from stages.download_shards.config import DownloadShardsConfig, FolderSource
from stages.download_shards.growth import MOST_ENTRIES
from stages.download_shards.row_digests import growth_of
from stages.download_shards.sources.base import Entries, Entry, Parts
from stages.download_shards.sources.columns import FAULT, as_fault, count_faults, fault_of
from stages.download_shards.sources.folder_listing import Listing, list_tree
from stages.download_shards.sources.matching import IMAGE_SUFFIXES, FileIndex
from stages.download_shards.sources.metadata import Metadata, check_metadata, columns_of, read_metadata
from stages.download_shards.sources.rows import (
    RESERVED,
    RowPart,
    caption_column,
    clean_captions,
    cut,
    make_rows,
)
from stages.download_shards.sources.text_files import decode_text
from stages.download_shards.sources.trees import Content, OutsideTree, Tree, open_tree
from stages.formats.source_records import SourceRecord, in_words
from stages.storage.filesystems import explaining
from stages.storage.walking import NotAFile, TooLarge

_BESIDE = {".json": "__json__", ".txt": "__text__"}
"""Columns of the rows that workers get: the names of the files beside an image."""


class Folder:
    """The images of a folder tree, by their relative paths."""

    def __init__(self, source: FolderSource, config: DownloadShardsConfig) -> None:
        self._source, self._config = source, config

    def check(self) -> None:
        """Check that the folder is there and its metadata files, if any, have the configured columns."""
        with explaining(self._source.path):
            _list(self._source)

    @contextlib.contextmanager
    def parts(self) -> Iterator[Parts]:
        """Yield the rows of each shard."""
        with explaining(self._source.path):
            rows, record = list_folder(self._source)
            growth = None
            if rows.num_rows <= MOST_ENTRIES:
                contents = list(_contents(self._source.path, rows))
                growth = growth_of(rows, self._config.rows_per_shard, contents)
        yield Parts(cut(rows, self._config.rows_per_shard), record, growth=growth)

    def read(self, part: RowPart) -> Entries:
        """Read the captions of all rows, then the images one after another."""
        rows, tree = part.rows(), open_tree(self._source.path)
        found = list(_captions(tree, rows.to_pylist(), self._source.encoding))
        captions = caption_column([[] if isinstance(one, ItemFault) else one for one in found])
        own = {*RESERVED, *_BESIDE.values(), FAULT}
        table = make_rows(rows["url"], captions, rows.select([name for name in rows.column_names if name not in own]))
        faults = [one if isinstance(one, ItemFault) else None for one in found]
        entries = _entries(tree, table.to_pylist(), faults, self._config.max_bytes)
        return Entries(table.schema, entries, lambda: rows.num_rows)


def _list(source: FolderSource) -> tuple[Tree, Listing]:
    tree = open_tree(source.path)
    if not tree.exists():
        raise InputFault(
            f"download_shards.source.path: {source.path}: there is no such folder: give the folder of the images"
        )
    listing = list_tree(tree.walk())
    check_metadata(tree, listing.metadata, source)
    return tree, listing


def _contents(path: str, rows: pa.Table) -> Iterator[bytes]:
    """Yield what identifies the files of each row: the image, and those beside it."""
    columns = ("url", *_BESIDE.values())
    named = rows.select(columns).to_pydict()
    contents = content_digests(path, {name for column in columns for name in named[column] if name is not None})
    for names in zip(*(named[column] for column in columns), strict=True):
        yield b"\0".join(b"" if name is None else contents.get(name, b"") for name in names)


def list_folder(source: FolderSource) -> tuple[pa.Table, SourceRecord]:
    """Return one row for each image in the order of its relative path, which is its url, and what else there is.

    An image that a metadata file names and the folder lacks has a row, too, so that it is counted as lost.
    """
    tree, listing = _list(source)
    metadata = read_metadata(tree, listing.metadata, source, FileIndex(listing.images, tree.tops))
    faults = listing.lost | metadata.lost
    names = sorted({*listing.images, *faults})
    if not names:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        others = f", but {in_words(listing.skips.counted)}" if listing.skips.counted else ""
        raise InputFault(
            f"download_shards.source.path: {source.path} holds no image ({kinds}){others}: give another folder"
        )
    rows = _rows(names, faults, listing, columns_of(metadata, names, source))
    skips, besides = listing.skips.counted, _besides(listing, metadata)
    record = SourceRecord(found=listing.found + besides, used=listing.used, skips=skips, failures=count_faults(rows))
    return rows, record


def _besides(listing: Listing, metadata: Metadata) -> int:
    """Return how many entries are there by metadata alone."""
    return len(metadata.lost.keys() - set(listing.images) - listing.lost.keys())


def _rows(
    names: Sequence[str],
    faults: Mapping[str, ItemFault],
    listing: Listing,
    described: tuple[pa.ChunkedArray, pa.Table] | None,
) -> pa.Table:
    captions, extra = described if described is not None else (None, pa.table({}))
    rows = make_rows(pa.chunked_array([pa.array(names, pa.string())]), captions, extra)
    if faults:
        texts = [None if (fault := faults.get(name)) is None else as_fault(fault.cause, fault.detail) for name in names]
        rows = rows.append_column(FAULT, pa.array(texts, pa.string()))
    for suffix, column in _BESIDE.items():
        files = [listing.captions.get(name, {}).get(suffix) for name in names]
        rows = rows.append_column(column, pa.array(files, pa.string()))
    return rows


def _entries(tree: Tree, rows: list[dict[str, Any]], faults: list[ItemFault | None], max_bytes: int) -> Iterator[Entry]:
    names = (row["url"] for row, fault in zip(rows, faults, strict=True) if fault is None)
    contents = tree.read(names, max_bytes)
    for index, (row, fault) in enumerate(zip(rows, faults, strict=True)):
        content = fault or next(contents)
        yield Entry(index, row, _fault_of(content) if isinstance(content, OSError) else content)


def _fault_of(error: OSError) -> ItemFault:
    causes: dict[type[OSError], FailureCause] = {
        OutsideTree: FailureCause.OUTSIDE_FOLDER,
        NotAFile: FailureCause.NOT_A_FILE,
        TooLarge: FailureCause.FILE_TOO_LARGE,
        FileNotFoundError: FailureCause.MISSING_FILE,
    }
    cause = next((cause for kind, cause in causes.items() if isinstance(error, kind)), None)
    if cause is not None:
        return ItemFault(cause)
    return ItemFault(FailureCause.UNREADABLE_FILE, f"cannot be read: {error.strerror or error}")


def _captions(tree: Tree, rows: Sequence[Mapping[str, Any]], encoding: str) -> Iterator[list[str] | ItemFault]:
    """Yield for each row the captions of the metadata, or else of the JSON beside it, or else of the text."""
    lost = [fault_of(row.get(FAULT)) for row in rows]
    listed = [clean_captions(row.get("captions") or row.get("caption")) for row in rows]
    is_beside = [not found and fault is None for found, fault in zip(listed, lost, strict=True)]
    names = [row[column] for row, beside in zip(rows, is_beside, strict=True) if beside for column in _BESIDE.values()]
    files = tree.read((name for name in names if name is not None), MAX_JSON_BYTES)
    for row, found, fault, beside in zip(rows, listed, lost, is_beside, strict=True):
        if fault is not None:
            yield fault
        elif not beside:
            yield found
        else:
            described, text = (next(files) if row[column] is not None else None for column in _BESIDE.values())
            yield _captions_in(described, text, encoding)


def _captions_in(described: Content | None, text: Content | None, encoding: str) -> list[str] | ItemFault:
    """Read the files beside an image: a JSON mapping, or else a text."""
    try:
        if (content := _existing(described)) is not None and (found := _captions_of_json(content, encoding)):
            return found
        words = _existing(text)
        with parsing(FailureCause.BAD_CAPTION_FILE):
            return clean_captions(decode_text(words, encoding).strip()) if words is not None else []
    except ItemFault as fault:
        return fault


def _captions_of_json(content: bytes, encoding: str) -> list[str]:
    with parsing(FailureCause.BAD_CAPTION_FILE):
        mapping = load_json(decode_text(content, encoding))
        if not isinstance(mapping, dict):
            raise ValueError("no object")
        found = mapping.get("captions") or mapping.get("caption")
        values = found if isinstance(found, list) else [found]
        if not all(isinstance(value, str | None) for value in values):
            raise ValueError("captions are texts or lists of texts")
        return clean_captions(found)


def _existing(content: Content | None) -> bytes | None:
    """Return the content; None: there is no such file; ItemFault: it cannot be read."""
    if content is None or isinstance(content, FileNotFoundError | IsADirectoryError):
        return None
    if isinstance(content, OutsideTree):
        raise _fault_of(content)
    if isinstance(content, OSError):
        raise ItemFault(FailureCause.BAD_CAPTION_FILE, f"caption file is damaged: {_fault_of(content)}")
    return content
