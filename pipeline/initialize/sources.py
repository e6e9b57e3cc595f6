"""Which kind of source a path is, and which of its columns hold what."""

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from stages.contract.parsing import shown
from stages.contract.texts import one_line
from stages.storage.filesystems import local_path, root_address

_LISTS = ("csv", "tsv", "parquet", "json", "jsonl", "txt")
_ADDRESSES = ("url", "image_url", "urls", "image_urls", "link", "address", "src")
_FILES = ("file_name", "filename", "file", "path", "image_path", "image", "img")
_CAPTIONS = ("caption", "captions", "text", "texts", "title", "description", "alt", "prompt", "label")


def source_of(address: str) -> dict[str, Any]:
    """Return the section `download_shards.source` for a folder, a list or a webdataset of this machine.

    Raises:
        UsageError: there is nothing, or nothing of which images can be made.
    """
    path = Path(root_address(local_path(address)))
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise UsageError(f"init: there is no {shown(address)}: give a folder of images, a list of addresses, or a tar")
    suffix = path.suffix.lower().lstrip(".")
    if suffix == "tar":
        return {"kind": "webdataset", "path": str(path)}
    if suffix not in _LISTS:
        raise UsageError(
            f"init: {shown(path.name)} is none of the files that are read: allowed are a folder, a .tar, or a list "
            f"({', '.join(_LISTS)})"
        )
    return _of_list(path, suffix)


def _of_folder(path: Path) -> dict[str, Any]:
    files = [one for one in path.iterdir() if not one.name.startswith(".")]
    suffixes = {one.suffix.lower().lstrip(".") for one in files if one.is_file()}
    if "tar" in suffixes:
        return {"kind": "webdataset", "path": str(path)}
    found: dict[str, Any] = {"kind": "folder", "path": str(path)}
    described = [
        one for one in files if one.stem.lower() == "metadata" and one.suffix.lower().lstrip(".") in _LISTS[:5]
    ]
    if described:
        names = _columns(described[0], described[0].suffix.lower().lstrip("."))
        keys = {"file_column": _nearest(names, _FILES), "caption_column": _nearest(names, _CAPTIONS)}
        found |= {key: value for key, value in keys.items() if value is not None}
    return found


def _of_list(path: Path, suffix: str) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "url_list", "path": str(path)}
    if suffix == "txt":
        return found
    names = _columns(path, suffix)
    address, file = _nearest(names, _ADDRESSES), _nearest(names, _FILES)
    if path.stem.lower() == "metadata" and file is not None:
        return _of_folder(path.parent)
    if address is None:
        columns = ", ".join(shown(name, 40) for name in names) or "none"
        remedy = (
            f"call it metadata.{suffix}, in the folder of the images, and give that folder"
            if file is not None
            else f"call the column of the addresses {_ADDRESSES[0]}"
        )
        raise UsageError(f"init: {shown(path.name)} has no column of web addresses (its columns: {columns}): {remedy}")
    caption = _nearest(names, _CAPTIONS)
    return found | {"url_column": address} | ({} if caption is None else {"caption_column": caption})


def _columns(path: Path, suffix: str) -> Sequence[str]:
    from stages.contract.errors import StageError
    from stages.download_shards.config import UrlListSource
    from stages.download_shards.sources.parquet_lists import ParquetRows
    from stages.download_shards.sources.tables import read_columns
    from stages.download_shards.sources.url_list import wanted_of

    wanted = wanted_of(UrlListSource(kind="url_list", path=str(path)))
    try:
        with ParquetRows() as parquet:
            return read_columns(str(path), suffix, wanted, parquet)
    except StageError as error:
        raise UsageError(f"init: {one_line(error, 400)}") from None


def _nearest(names: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the column whose name is the earliest of those known, in any case."""
    folded = {name.strip().lower(): name for name in reversed(names)}
    return next((folded[name] for name in known if name in folded), None)


def default_name(address: str) -> str:
    """Return a name for the experiment: the path's, in letters that a run's id may have."""
    stem = posixpath.basename(root_address(local_path(address))).partition(".")[0]
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "_" for char in stem)
    return kept.strip("_-")[:40] or "photos"
