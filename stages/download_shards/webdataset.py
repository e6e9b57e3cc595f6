"""Existing webdataset shards, in img2dataset's or LAION's layout, on any file system that fsspec knows."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from stages.contract.errors import InputFault
from stages.download_shards.config import WebdatasetSource
from stages.download_shards.entries import Entry
from stages.download_shards.fetch import without_credentials
from stages.download_shards.rows import clean_captions
from stages.storage.filesystems import open_address

_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_DAMAGED = "tar is damaged from here on"
_NO_IMAGE = "no such file: the sample has no image"
_SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("url", pa.string()),
        ("source_key", pa.string()),
        ("source_json", pa.string()),
    ]
)


def list_tars(source: WebdatasetSource) -> list[str]:
    """Return the addresses of the shards, in order.

    Raises:
        InputFault: there is none.
    """
    fs, root = open_address(source.path)
    found = [root] if root.endswith(".tar") and fs.isfile(root) else sorted(fs.glob(f"{root}/*.tar"))
    if not found:
        raise InputFault(
            f"download_shards.source.path: {source.path}: no .tar file there: give one, or a folder of them"
        )
    return [fs.unstrip_protocol(name) for name in found]


def read_tar(uri: str) -> tuple[pa.Schema, Iterator[Entry]]:
    """Return the schema of the rows and the entries of one shard, read as a stream.

    What else a sample's key.json says is kept as it is in ``source_json``, its key in ``source_key``.
    """
    return _SCHEMA, _entries(uri)


def _entries(uri: str) -> Iterator[Entry]:
    from webdataset.tariterators import group_by_keys

    index, faults = 0, list[str]()
    fs, path = open_address(uri)
    with fs.open(path, "rb") as stream:
        try:
            for sample in group_by_keys(_members(uri, stream, faults)):
                yield _make_entry(index, sample)
                index += 1
        except ValueError:  # two members of one name
            faults.append(_DAMAGED)
    if faults:
        yield Entry(index, dict.fromkeys(_SCHEMA.names) | {"url": path.rpartition("/")[2]}, None, _DAMAGED)


def _members(uri: str, stream: Any, faults: list[str]) -> Iterator[Any]:
    """Yield what a tar holds as far as it can be read, so that the last whole sample of a damaged one is kept."""
    from webdataset.tariterators import tar_file_expander

    try:
        yield from tar_file_expander([{"url": uri, "stream": stream}])
    except (tarfile.TarError, EOFError):
        faults.append(_DAMAGED)


def _make_entry(index: int, sample: Mapping[str, Any]) -> Entry:
    key = sample["__key__"]
    described, text, fault = _describe(sample)
    captions = (
        clean_captions(described.get("captions")) or clean_captions(text) or clean_captions(described.get("caption"))
    )
    row = {
        "caption": captions[0] if captions else None,
        "captions": captions if len(captions) > 1 else None,
        "url": without_credentials(str(described.get("url") or key)),
        "source_key": key,
        "source_json": json.dumps(described, ensure_ascii=False) if described else None,
    }
    image = next((sample[suffix] for suffix in _IMAGE_SUFFIXES if suffix in sample), None)
    if fault is not None or image is None:
        return Entry(index, row, None, fault or _NO_IMAGE)
    return Entry(index, row, image, None)


def _describe(sample: Mapping[str, Any]) -> tuple[dict[str, Any], str | None, str | None]:
    """Read what stands in key.json and key.txt, or tell that they are damaged."""
    try:
        described = json.loads(sample["json"]) if "json" in sample else {}
        text = sample["txt"].decode() if "txt" in sample else None
    except ValueError:  # neither JSON nor UTF-8
        return {}, None, "caption file is damaged"
    if not isinstance(described, dict):
        return {}, text, "caption file is damaged"
    if "url" in described:
        described["url"] = without_credentials(str(described["url"]))
    return described, text, None
