"""The metadata files of a folder of images: which image each row names, and all captions of an image."""

import collections
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.download_shards.config import FolderSource
from stages.download_shards.http.fetch import recorded_name
from stages.download_shards.sources.column_types import join
from stages.download_shards.sources.columns import FAULT, Wanted, fault_of
from stages.download_shards.sources.delimited import with_numbers
from stages.download_shards.sources.matching import IMAGE_SUFFIXES, FileIndex
from stages.download_shards.sources.parquet_lists import ParquetRows
from stages.download_shards.sources.rows import caption_column, clean_captions
from stages.download_shards.sources.tables import read_columns, read_table, require_columns
from stages.download_shards.sources.trees import Tree

_FILE_NAME = re.compile(rf".*({'|'.join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES))})$", re.IGNORECASE)


@dataclass
class Metadata:
    """The rows of all metadata files of a tree, and what they name."""

    table: pa.Table | None = None
    rows: dict[str, list[int]] = field(default_factory=dict)
    """The rows of each image, in order."""
    lost: dict[str, ItemFault] = field(default_factory=dict)
    """Why an image is lost, by its name or by what stands for it in the rows."""


def check_metadata(tree: Tree, files: Sequence[str], source: FolderSource) -> None:
    """Check that no folder has two metadata files, and that each has the configured columns."""
    folders = collections.Counter(posixpath.dirname(name) for name in files)
    for folder, count in folders.items():
        if count > 1:
            several = " and ".join(name for name in files if posixpath.dirname(name) == folder)
            raise InputFault(
                f"download_shards.source.path: {source.path} holds {several}: one in a folder is allowed: "
                "remove the others"
            )
    with ParquetRows() as parquet:
        for name in files:
            found = read_columns(tree.address(name), _format(name), _wanted(source), parquet)
            require_columns(source, ("file_column", "caption_column"), name, found)


def read_metadata(tree: Tree, files: Sequence[str], source: FolderSource, index: FileIndex) -> Metadata:
    """Read the files, those of upper folders first."""
    if not files:
        return Metadata()
    ordered = sorted(files, key=lambda name: (name.count("/"), name))
    with ParquetRows() as parquet:
        tables = [read_table(tree.address(name), _format(name), _wanted(source), parquet) for name in ordered]
    folders = [posixpath.dirname(name) for name, table in zip(ordered, tables, strict=True) for _ in range(len(table))]
    if _are_delimited(ordered):
        tables = with_numbers(tables, _wanted(source).texts)
    table = join(tables, source.caption_column)
    found = Metadata(table)
    faults = table[FAULT].to_pylist() if FAULT in table.column_names else [None] * len(table)
    names = table[source.file_column].to_pylist()
    exact = (index.exact(name or "", folder) for name, folder in zip(names, folders, strict=True))
    named = {path for path in exact if path is not None}
    for row, (name, folder, text) in enumerate(zip(names, folders, faults, strict=True)):
        match = index.match(name or "", folder, named)
        _take_row(found, row, match, fault_of(text), recorded_name(posixpath.join(folder, name or "")))
    return found


def _take_row(found: Metadata, row: int, match: str | ItemFault, fault: ItemFault | None, name: str) -> None:
    """Take in a row; a damaged one costs the image that it names, and one that names none is an entry of its own."""
    if isinstance(match, str):
        found.rows.setdefault(match, []).append(row)
        if fault is not None:
            found.lost.setdefault(match, fault)
        return
    fault = fault or match
    blank = fault.cause in {FailureCause.BAD_ROW, FailureCause.UNMATCHED_ROW} and name in {"", posixpath.dirname(name)}
    found.lost.setdefault(f"row {row + 1}" if blank else name, fault)


def columns_of(found: Metadata, names: Sequence[str], source: FolderSource) -> tuple[pa.ChunkedArray, pa.Table] | None:
    """Return the captions of images, all that the rows of each give, and the other columns, of the first row."""
    if found.table is None:
        return None
    listed = found.table[source.caption_column].to_pylist()
    rows = [found.rows.get(name, []) for name in names]
    captions = [[caption for row in several for caption in clean_captions(listed[row])] for several in rows]
    others = [name for name in found.table.column_names if name not in {*_wanted(source).texts, FAULT}]
    first = pa.array([several[0] if several else None for several in rows], pa.int64())
    return caption_column(captions), found.table.select(others).take(first)


def _wanted(source: FolderSource) -> Wanted:
    return Wanted(source.file_column, source.caption_column, _FILE_NAME, source.encoding)


def _format(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _are_delimited(names: Sequence[Any]) -> bool:
    return all(_format(name) in {"csv", "tsv"} for name in names)
