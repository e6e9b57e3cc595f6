"""A folder tree of images: the driver lists names, the workers read images and the captions beside them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.download_shards.config import FolderSource
from stages.download_shards.entries import Entry
from stages.download_shards.rows import RESERVED, caption_column, clean_captions, make_rows
from stages.errors import InputFault, nearest

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
    if not source.path.is_dir():
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
    names = set(_image_names(source.path))
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


def read_entries(rows: pa.Table, root: Path) -> tuple[pa.Schema, Iterator[Entry]]:
    """Return the schema of the rows with their captions, and the entries of one shard, read one by one."""
    found = [_captions_beside(root / row["url"], row) for row in rows.to_pylist()]
    extra = rows.select([name for name in rows.column_names if name not in RESERVED])
    table = make_rows(rows["url"], caption_column([captions for captions, _ in found]), extra)
    faults = [fault for _, fault in found]
    return table.schema, (
        Entry(index, row, *((None, faults[index]) if faults[index] else _read(root, row["url"])))
        for index, row in enumerate(table.to_pylist())
    )


def _image_names(root: Path) -> Iterator[str]:
    for folder, _, files in os.walk(root):
        for name in files:
            if os.path.splitext(name)[1].lower() in _IMAGE_SUFFIXES:
                yield (Path(folder) / name).relative_to(root).as_posix()


def _read(root: Path, name: str) -> tuple[bytes | None, str | None]:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        return None, _BESIDE_FOLDER
    try:
        return path.read_bytes(), None
    except OSError as error:
        return None, _MISSING if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"


def _captions_beside(path: Path, row: dict[str, Any]) -> tuple[list[str], str | None]:
    """Return the captions of the metadata file, or else of key.json, or else of key.txt; or why they are unreadable."""
    listed = clean_captions(row.get("captions") or row.get("caption"))
    if listed:
        return listed, None
    described, text = path.with_suffix(".json"), path.with_suffix(".txt")
    try:
        if described.is_file():
            content = json.loads(described.read_text(encoding="utf-8"))
            found = clean_captions(content.get("captions") or content.get("caption"))
            if found:
                return found, None
        return clean_captions(text.read_text(encoding="utf-8").strip()) if text.is_file() else [], None
    except (ValueError, AttributeError, OSError):  # not JSON, not UTF-8, not a mapping, not readable
        return [], _BAD_CAPTION


def _read_metadata(source: FolderSource) -> pa.Table | None:
    """Read metadata.csv or metadata.jsonl at the top of the folder, where there is one."""
    from stages.download_shards.source import read_table

    found = [source.path / name for name in _METADATA if (source.path / name).is_file()]
    if len(found) > 1:
        raise InputFault(
            f"download_shards.source.path: {source.path} holds {' and '.join(_METADATA)}: one of them is allowed: "
            "remove the other"
        )
    if not found:
        return None
    table = read_table(found[0], found[0].suffix.lstrip("."))
    for key, name in (("file_column", source.file_column), ("caption_column", source.caption_column)):
        if name not in table.column_names:
            raise InputFault(
                f"download_shards.source.{key}: {found[0].name} has no column {name!r}"
                f"{nearest(name, table.column_names)}: its columns are {', '.join(table.column_names)}: "
                f"set download_shards.source.{key} to one of them"
            )
    return table
