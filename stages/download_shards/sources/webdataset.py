"""Existing webdataset shards, in img2dataset's or LAION's layout, on any file system that fsspec knows."""

import contextlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.download_shards.config import DownloadShardsConfig, WebdatasetSource
from stages.download_shards.http.fetch import without_credentials
from stages.download_shards.sources.base import Entries, Entry, Parts
from stages.download_shards.sources.rows import clean_captions
from stages.storage.filesystems import explaining, open_address

_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_DAMAGED = ItemFault(FailureCause.DAMAGED_TAR)
_NO_IMAGE = ItemFault(FailureCause.MISSING_FILE, "no such file: the sample has no image")
_BAD_CAPTION = ItemFault(FailureCause.BAD_CAPTION_FILE)
_SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("url", pa.string()),
        ("source_key", pa.string()),
        ("source_json", pa.string()),
    ]
)


class Webdataset:
    """The addresses of shards, each read as a stream.

    The rest of a sample's key.json is kept as it is in ``source_json``, its key in ``source_key``.
    """

    def __init__(self, source: WebdatasetSource, config: DownloadShardsConfig) -> None:
        self._path = source.path

    def check(self) -> None:
        """Check that there is a shard."""
        with explaining(self._path):
            self._tars()

    @contextlib.contextmanager
    def parts(self) -> Iterator[Parts]:
        """Yield the addresses of the shards, in order."""
        yield Parts(self._tars())

    def read(self, part: str) -> Entries:
        """Read one shard."""
        seen: list[int] = []
        return Entries(_SCHEMA, _noting(_entries(part), seen), lambda: len(seen))

    def _tars(self) -> list[str]:
        fs, root = open_address(self._path)
        found = [root] if root.endswith(".tar") and fs.isfile(root) else sorted(fs.glob(f"{root}/*.tar"))
        if not found:
            raise InputFault(
                f"download_shards.source.path: {self._path}: no .tar file there: give one, or a folder of them"
            )
        return [fs.unstrip_protocol(name) for name in found]


def _noting(entries: Iterator[Entry], seen: list[int]) -> Iterator[Entry]:
    for entry in entries:
        seen.append(entry.index)
        yield entry


def _entries(uri: str) -> Iterator[Entry]:
    from webdataset.tariterators import group_by_keys

    index, faults = 0, list[ItemFault]()
    fs, path = open_address(uri)
    with fs.open(path, "rb") as stream:
        try:
            for sample in group_by_keys(_members(uri, stream, faults)):
                yield _make_entry(index, sample)
                index += 1
        except ValueError:  # two members of one name
            faults.append(_DAMAGED)
    if faults:
        yield Entry(index, dict.fromkeys(_SCHEMA.names) | {"url": path.rpartition("/")[2]}, _DAMAGED)


def _members(uri: str, stream: Any, faults: list[ItemFault]) -> Iterator[Any]:
    """Yield the members of a tar as far as it can be read, so that the last whole sample of a damaged one is kept."""
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
    return Entry(index, row, fault or (_NO_IMAGE if image is None else image))


def _describe(sample: Mapping[str, Any]) -> tuple[dict[str, Any], str | None, ItemFault | None]:
    """Return the contents of key.json and key.txt, or that they are damaged."""
    try:
        described = json.loads(sample["json"]) if "json" in sample else {}
        text = sample["txt"].decode() if "txt" in sample else None
    except ValueError:  # neither JSON nor UTF-8
        return {}, None, _BAD_CAPTION
    if not isinstance(described, dict):
        return {}, text, _BAD_CAPTION
    if "url" in described:
        described["url"] = without_credentials(str(described["url"]))
    return described, text, None
