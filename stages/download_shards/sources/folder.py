"""A folder tree of images: the driver lists names, the workers read images and the captions beside them."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.download_shards.config import DownloadShardsConfig, FolderSource
from stages.download_shards.sources.base import Entries, Entry, Parts
from stages.download_shards.sources.rows import RESERVED, RowPart, caption_column, clean_captions, cut, make_rows
from stages.download_shards.sources.tables import read_table, require_columns
from stages.download_shards.sources.trees import Content, OutsideTree, Tree, leads_out, open_tree
from stages.formats.source_records import SourceRecord
from stages.storage.filesystems import explaining

_METADATA = ("metadata.csv", "metadata.jsonl")
_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))


class Folder:
    """The images of a folder tree, by their relative paths."""

    def __init__(self, source: FolderSource, config: DownloadShardsConfig) -> None:
        self._source, self._rows_per_shard = source, config.rows_per_shard

    def check(self) -> None:
        """Check that the folder is there and its metadata file, if any, has the configured columns."""
        with explaining(self._source.path):
            if not open_tree(self._source.path).exists():
                raise InputFault(
                    f"download_shards.source.path: {self._source.path}: there is no such folder: give the folder of "
                    "the images"
                )
            _read_metadata(self._source)

    @contextlib.contextmanager
    def parts(self) -> Iterator[Parts]:
        """Yield the rows of each shard."""
        self.check()
        rows = list_folder(self._source)
        yield Parts(cut(rows, self._rows_per_shard), SourceRecord(found=rows.num_rows))

    def read(self, part: RowPart) -> Entries:
        """Read the captions of all rows, then the images one after another."""
        rows, tree = part.rows(), open_tree(self._source.path)
        found = list(_captions(tree, rows.to_pylist()))
        captions = caption_column([[] if isinstance(one, ItemFault) else one for one in found])
        extra = rows.select([name for name in rows.column_names if name not in RESERVED])
        table = make_rows(rows["url"], captions, extra)
        faults = [one if isinstance(one, ItemFault) else None for one in found]
        return Entries(table.schema, _entries(tree, table.to_pylist(), faults), lambda: rows.num_rows)


def list_folder(source: FolderSource) -> pa.Table:
    """Return one row for each image in the order of its relative path, which is its url.

    An image that the metadata file lists and the folder lacks has a row, too, so that it is counted as lost.
    """
    metadata = _read_metadata(source)
    names = {name for name in open_tree(source.path).names() if PurePosixPath(name).suffix.lower() in _IMAGE_SUFFIXES}
    listed: dict[str, int] = {}
    if metadata is not None:
        listed = {name: row for row, name in enumerate(metadata[source.file_column].to_pylist()) if name is not None}
    ordered = sorted(names | listed.keys())
    if not ordered:
        kinds = ", ".join(sorted(_IMAGE_SUFFIXES))
        raise InputFault(f"download_shards.source.path: {source.path} holds no image ({kinds}): give another folder")
    urls = pa.chunked_array([pa.array(ordered, pa.string())])
    if metadata is None:
        return make_rows(urls, None, pa.table({}))
    table = metadata.take(pa.array([listed.get(name) for name in ordered], pa.int64()))
    captions = table[source.caption_column]
    return make_rows(urls, captions, table.drop_columns([source.file_column, source.caption_column]))


def _entries(tree: Tree, rows: list[dict[str, Any]], faults: list[ItemFault | None]) -> Iterator[Entry]:
    contents = tree.read(row["url"] for row, fault in zip(rows, faults, strict=True) if fault is None)
    for index, (row, fault) in enumerate(zip(rows, faults, strict=True)):
        content = fault or next(contents)
        yield Entry(index, row, _fault_of(content) if isinstance(content, OSError) else content)


def _fault_of(error: OSError) -> ItemFault:
    if isinstance(error, OutsideTree):
        return ItemFault(FailureCause.OUTSIDE_FOLDER)
    if isinstance(error, FileNotFoundError):
        return ItemFault(FailureCause.MISSING_FILE)
    return ItemFault(FailureCause.UNREADABLE_FILE, f"cannot be read: {error.strerror or error}")


def _captions(tree: Tree, rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str] | ItemFault]:
    """Yield for each row the captions of the metadata file, or else of key.json, or else of key.txt."""
    listed = [clean_captions(row.get("captions") or row.get("caption")) for row in rows]
    is_beside = [not found and not leads_out(row["url"]) for found, row in zip(listed, rows, strict=True)]
    names = [row["url"] for row, beside in zip(rows, is_beside, strict=True) if beside]
    files = tree.read(str(PurePosixPath(name).with_suffix(suffix)) for name in names for suffix in (".json", ".txt"))
    for found, beside in zip(listed, is_beside, strict=True):
        yield _captions_in(next(files), next(files)) if beside else found


def _captions_in(described: Content, text: Content) -> list[str] | ItemFault:
    """Read the files beside an image: a JSON mapping, or else a text."""
    try:
        if (content := _existing(described)) is not None:
            mapping = json.loads(content)
            found = clean_captions(mapping.get("captions") or mapping.get("caption"))
            if found:
                return found
        words = _existing(text)
        return clean_captions(words.decode().strip()) if words is not None else []
    except (ValueError, AttributeError, OSError):  # not JSON, not UTF-8, not a mapping, not readable
        return ItemFault(FailureCause.BAD_CAPTION_FILE)


def _existing(content: Content) -> bytes | None:
    """Return the content; None: there is no such file; OSError: it cannot be read."""
    if isinstance(content, FileNotFoundError | IsADirectoryError):
        return None
    if isinstance(content, OSError):
        raise content
    return content


def _read_metadata(source: FolderSource) -> pa.Table | None:
    """Read metadata.csv or metadata.jsonl at the top of the folder, where there is one."""
    tree = open_tree(source.path)
    found = [name for name in _METADATA if tree.has(name)]
    if len(found) > 1:
        raise InputFault(
            f"download_shards.source.path: {source.path} holds {' and '.join(_METADATA)}: one of them is allowed: "
            "remove the other"
        )
    if not found:
        return None
    table = read_table(tree.address(found[0]), found[0].rpartition(".")[2])
    require_columns(source, ("file_column", "caption_column"), found[0], table.column_names)
    return table
