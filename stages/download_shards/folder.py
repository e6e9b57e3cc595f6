"""A folder tree of images: the driver lists names, the workers read images and the captions beside them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from stages.contract.errors import InputFault, nearest
from stages.download_shards.config import FolderSource
from stages.download_shards.entries import Entry
from stages.download_shards.rows import RESERVED, caption_column, clean_captions, make_rows
from stages.download_shards.trees import Content, OutsideTree, Tree, leads_out, open_tree

_METADATA = ("metadata.csv", "metadata.jsonl")
_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
_MISSING = "no such file"
_BAD_CAPTION = "caption file is damaged"
_BESIDE_FOLDER = "the file lies outside the folder"


def check_folder(source: FolderSource) -> None:
    """Look whether the folder is there and its metadata file, if any, has the named columns.

    Raises:
        InputFault: it is not, or has not.
    """
    if not open_tree(source.path).exists():
        raise InputFault(
            f"download_shards.source.path: {source.path}: there is no such folder: give the folder of the images"
        )
    _read_metadata(source)


def list_folder(source: FolderSource) -> pa.Table:
    """Return one row for each image in the order of its relative path, which stands as its url.

    What the metadata file lists and the folder lacks is a row too, so that it is counted as lost.

    Raises:
        InputFault: as for :func:`check_folder`, or there is no image.
    """
    check_folder(source)
    metadata = _read_metadata(source)
    names = {name for name in open_tree(source.path).names() if PurePosixPath(name).suffix.lower() in _IMAGE_SUFFIXES}
    place: dict[str, int] = {}
    if metadata is not None:
        place = {name: row for row, name in enumerate(metadata[source.file_column].to_pylist()) if name is not None}
    ordered = sorted(names | place.keys())
    if not ordered:
        kinds = ", ".join(sorted(_IMAGE_SUFFIXES))
        raise InputFault(f"download_shards.source.path: {source.path} holds no image ({kinds}): give another folder")
    urls = pa.chunked_array([pa.array(ordered, pa.string())])
    if metadata is None:
        return make_rows(urls, None, pa.table({}))
    table = metadata.take(pa.array([place.get(name) for name in ordered], pa.int64()))
    captions = table[source.caption_column]
    return make_rows(urls, captions, table.drop_columns([source.file_column, source.caption_column]))


def read_entries(rows: pa.Table, path: str) -> tuple[pa.Schema, Iterator[Entry]]:
    """Return the schema of the rows with their captions, and the entries of one shard, whose images are read later."""
    tree = open_tree(path)
    found = list(_captions(tree, rows.to_pylist()))
    extra = rows.select([name for name in rows.column_names if name not in RESERVED])
    table = make_rows(rows["url"], caption_column([captions for captions, _ in found]), extra)
    return table.schema, _entries(tree, table.to_pylist(), [fault for _, fault in found])


def _entries(tree: Tree, rows: list[dict[str, Any]], faults: list[str | None]) -> Iterator[Entry]:
    contents = tree.read(row["url"] for row, fault in zip(rows, faults, strict=True) if fault is None)
    for index, (row, fault) in enumerate(zip(rows, faults, strict=True)):
        content = None if fault else next(contents)
        if isinstance(content, OSError):
            yield Entry(index, row, None, _describe_error(content))
        else:
            yield Entry(index, row, content, fault)


def _describe_error(error: OSError) -> str:
    if isinstance(error, OutsideTree):
        return _BESIDE_FOLDER
    return _MISSING if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror or error}"


Captions = tuple[list[str], str | None]
"""The captions of an image, or why they are unreadable."""


def _captions(tree: Tree, rows: Sequence[Mapping[str, Any]]) -> Iterator[Captions]:
    """Yield for each row the captions of the metadata file, or else of key.json, or else of key.txt."""
    listed = [clean_captions(row.get("captions") or row.get("caption")) for row in rows]
    asked = [not found and not leads_out(row["url"]) for found, row in zip(listed, rows, strict=True)]
    names = [row["url"] for row, is_asked in zip(rows, asked, strict=True) if is_asked]
    beside = tree.read(str(PurePosixPath(name).with_suffix(suffix)) for name in names for suffix in (".json", ".txt"))
    for found, is_asked in zip(listed, asked, strict=True):
        yield _captions_in(next(beside), next(beside)) if is_asked else (found, None)


def _captions_in(described: Content, text: Content) -> Captions:
    """Read what stands beside an image: in a JSON mapping, or else in a text."""
    try:
        if (content := _there(described)) is not None:
            mapping = json.loads(content)
            found = clean_captions(mapping.get("captions") or mapping.get("caption"))
            if found:
                return found, None
        words = _there(text)
        return clean_captions(words.decode().strip()) if words is not None else [], None
    except (ValueError, AttributeError, OSError):  # not JSON, not UTF-8, not a mapping, not readable
        return [], _BAD_CAPTION


def _there(content: Content) -> bytes | None:
    """Return the content, or None where there is no such file.

    Raises:
        OSError: there is one, and it cannot be read.
    """
    if isinstance(content, FileNotFoundError | IsADirectoryError):
        return None
    if isinstance(content, OSError):
        raise content
    return content


def _read_metadata(source: FolderSource) -> pa.Table | None:
    """Read metadata.csv or metadata.jsonl at the top of the folder, where there is one."""
    from stages.download_shards.source import read_table

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
    for key, name in (("file_column", source.file_column), ("caption_column", source.caption_column)):
        if name not in table.column_names:
            raise InputFault(
                f"download_shards.source.{key}: {found[0]} has no column {name!r}"
                f"{nearest(name, table.column_names)}: its columns are {', '.join(table.column_names)}: "
                f"set download_shards.source.{key} to one of them"
            )
    return table
