"""Existing webdataset shards, in img2dataset's or LAION's layout, on any file system that fsspec knows."""

import contextlib
import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa

from stages.contract.digests import file_digest
from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.contract.parsing import MAX_JSON_BYTES, clean_text, load_json, parsing, shown
from stages.download_shards.ambiguous_urls import hides_identity
from stages.download_shards.config import DownloadShardsConfig, WebdatasetSource
from stages.download_shards.growth import DIGEST_BYTES, as_digests
from stages.download_shards.http.fetch import recorded_name, recorded_url
from stages.download_shards.sources.base import Entries, Entry, Growth, Parts, Skipped
from stages.download_shards.sources.rows import clean_captions
from stages.formats.source_records import Counter, SourceRecord
from stages.formats.tar_samples import (
    Files,
    TarIndex,
    caption_suffix,
    clean_key,
    dotted_images,
    image_suffixes,
    index_tar,
    read_file,
)
from stages.storage.filesystems import explaining, is_local, open_address
from stages.storage.tars import compression_of
from stages.storage.walking import is_inside

_COMPRESSED_SUFFIXES = (
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.zst",
    ".tar.lz4",
    ".tar.br",
    ".tar.7z",
    ".tar.zip",
)
_TEXTS = ("txt", "text", "caption", "captions", "cap")  # of which txt is read
_SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("url", pa.string()),
        ("source_key", pa.string()),
        ("source_json", pa.string()),
    ]
)


@dataclass(frozen=True)
class _Sample:
    """Which files of a sample are read."""

    key: str
    files: Files
    image: str | None
    dotted: tuple[str, ...]
    """Images that are lost: their names are split at the first dot, and none of several is the sample's."""
    repeated: tuple[str, ...]
    """Further images of the one that is read."""
    described: str | None
    text: str | None
    unread: tuple[str, ...]
    """Further texts."""

    @property
    def has_entry(self) -> bool:
        """Whether the sample is an entry or a skip itself, beside those of its files."""
        return self.image is not None or not self.dotted

    @property
    def num_entries(self) -> int:
        """The sample, further images, further texts."""
        return self.has_entry + len(self.dotted) + len(self.repeated) + len(self.unread)


class Webdataset:
    """The addresses of shards, each read by its headers first, and then file by file.

    The rest of a sample's key.json is kept as it is in ``source_json``, its key in ``source_key``.
    """

    def __init__(self, source: WebdatasetSource, config: DownloadShardsConfig) -> None:
        self._path, self._max_bytes = source.path, config.max_bytes

    def check(self) -> None:
        """Check that there is a shard, and that none is compressed."""
        with explaining(self._path):
            fs, tars = self._tars()
            for name in tars if is_local(fs) else tars[:1]:
                _refuse_compressed(fs, name)

    @contextlib.contextmanager
    def parts(self) -> Iterator[Parts]:
        """Yield the addresses of the shards, in order."""
        fs, tars = self._tars()
        skips = Counter()
        for name in self._compressed(fs):
            skips.add(FailureCause.NO_IMAGE_FILE, name.rpartition("/")[2], ".tar." + name.rpartition(".")[2])
        parts = [fs.unstrip_protocol(name) for name in tars]
        growth = Growth(as_digests(map(self._digest, tars)), lambda numbers: parts[numbers[0]], rows_per_shard=1)
        yield Parts(parts, SourceRecord(skips=skips.counted), growth=growth)

    def read(self, part: str) -> Entries:
        """Read one shard."""
        try:
            tar = self._open(part)
        except ItemFault as fault:
            return Entries(_SCHEMA, iter([_lost(0, part, fault)]), lambda: 1)
        index = index_tar(tar)
        samples = [_plan(key, files) for key, files in index.samples.items()]
        expected = sum(sample.num_entries for sample in samples) + len(index.skipped) + (index.fault is not None)
        return Entries(_SCHEMA, self._entries(tar, part, index, samples), lambda: expected)

    def _tars(self) -> tuple[fsspec.AbstractFileSystem, list[str]]:
        fs, root = open_address(self._path)
        if fs.isfile(root) and (root.lower().endswith(".tar") or _begins_as_tar(fs, root)):
            return fs, [root]
        found = sorted(name for name in _names(fs, root) if name.lower().endswith(".tar"))
        if not found:
            packed = self._compressed(fs)
            raise InputFault(
                f"download_shards.source.path: {self._path}: no .tar file there"
                f"{f', but {shown(packed[0])}, which is compressed' if packed else ''}: give one, or a folder of them"
                f"{', unpacked (gunzip, unxz, zstd -d)' if packed else ''}"
            )
        return fs, found

    def _digest(self, tar: str) -> bytes:
        """Return what identifies a shard: the name, which is a part of the names of samples, and the content."""
        fs, root = open_address(self._path)
        name = tar.rpartition("/")[2].encode("utf-8", "surrogateescape")
        content = b""
        if not is_local(fs):
            content = str(fs.checksum(tar)).encode()
        elif tar == root or is_inside(tar, root):
            with contextlib.suppress(OSError):  # it is counted when it is read
                content = file_digest(Path(tar)) if Path(tar).is_file() else b""
        return hashlib.blake2b(name + b"\0" + content, digest_size=DIGEST_BYTES).digest()

    def _compressed(self, fs: fsspec.AbstractFileSystem) -> list[str]:
        _, root = open_address(self._path)
        return sorted(name for name in _names(fs, root) if name.lower().endswith(_COMPRESSED_SUFFIXES))

    def _open(self, part: str) -> IO[bytes]:
        """Open a shard: here, where no link leads out of the folder, or as a copy of a remote one."""
        fs, name = open_address(part)
        if not is_local(fs):
            return _fetch(fs, name)
        path, root = Path(name), Path(open_address(self._path)[1])
        if path != root and not path.resolve().is_relative_to(root.resolve()):
            raise ItemFault(FailureCause.OUTSIDE_FOLDER)
        if not path.is_file():
            raise ItemFault(FailureCause.NOT_A_FILE if path.exists() else FailureCause.MISSING_FILE)
        with parsing(FailureCause.UNREADABLE_FILE, path.name):
            return path.open("rb")

    def _entries(self, tar: IO[bytes], part: str, index: TarIndex, samples: list[_Sample]) -> Iterator[Entry | Skipped]:
        number = 0
        with tar:
            for sample in samples:
                if sample.image is None and not sample.dotted and sample.described is None and sample.text is None:
                    suffix = next(iter(sample.files))
                    yield Skipped(FailureCause.NO_IMAGE_FILE, f"{sample.key}.{suffix}", f".{suffix}")
                elif sample.has_entry:
                    yield self._entry(number, sample, tar, part.rpartition("/")[2])
                    number += 1
                for suffix in sample.dotted:
                    yield _dotted(number, sample, suffix, part.rpartition("/")[2])
                    number += 1
                for suffix in sample.repeated:
                    yield Skipped(FailureCause.REPEATED_MEMBER, f"{sample.key}.{suffix}", f".{suffix}")
                for suffix in sample.unread:
                    yield Skipped(FailureCause.CAPTION_WITHOUT_IMAGE, f"{sample.key}.{suffix}", f".{suffix}")
        yield from (Skipped(cause, name) for cause, name in index.skipped)
        if index.fault is not None:
            yield _lost(number, part, index.fault)

    def _entry(self, number: int, sample: _Sample, tar: IO[bytes], file: str) -> Entry:
        """Read a sample; its name is its address where that names it, else its key in the shard of this file."""
        key = recorded_name(clean_key(sample.key))
        row: dict[str, Any] = {"url": key, "source_key": key}
        content: bytes | ItemFault
        try:
            row |= _describe(sample, tar)
            content = self._image(sample, tar)
        except ItemFault as fault:
            content = fault
        has_name = row["url"] != key and not hides_identity(row["url"])
        return Entry(number, row, content, None if has_name else f"{clean_text(file)}/{key}")

    def _image(self, sample: _Sample, tar: IO[bytes]) -> bytes:
        if sample.image is None:
            raise ItemFault(FailureCause.MISSING_FILE, "no such file: the sample has no image")
        span = sample.files[sample.image]
        if isinstance(span, FailureCause):
            raise ItemFault(span)
        if span[1] > self._max_bytes:
            raise ItemFault(FailureCause.FILE_TOO_LARGE)
        return read_file(tar, span)


def _names(fs: fsspec.AbstractFileSystem, root: str) -> list[str]:
    try:
        return [str(name) for name in fs.ls(root, detail=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _begins_as_tar(fs: fsspec.AbstractFileSystem, name: str) -> bool:
    """Return whether a file begins as tars do; the name of one to which a link leads may say nothing."""
    try:
        with fs.open(name, "rb") as file:
            tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except (OSError, tarfile.HeaderError):
        return False
    return True


def _refuse_compressed(fs: fsspec.AbstractFileSystem, name: str) -> None:
    """Refuse a file whose first bytes are those of a compressed one; what cannot be read is counted later."""
    if is_local(fs) and not Path(name).is_file():
        return
    try:
        with fs.open(name, "rb") as file:
            compression = compression_of(file.read(8))
    except OSError:
        return
    if compression is not None:
        raise InputFault(
            f"download_shards.source.path: {shown(name)} is compressed by {compression}: plain tars are read, as a "
            "small compressed file may hold any amount of data: unpack it (gunzip, bunzip2, unxz, zstd -d)"
        )


def _fetch(fs: fsspec.AbstractFileSystem, name: str) -> IO[bytes]:
    """Return a copy of a remote tar, which is read in two passes, in the folder for temporary files."""
    size, free = int(fs.info(name).get("size") or 0), shutil.disk_usage(tempfile.gettempdir()).free
    if size > free:
        raise InputFault(
            f"download_shards: {shown(name)} has {size:,} bytes, and the folder for temporary files has room for "
            f"{free:,}: a remote tar is copied there while it is read: set TMPDIR to a folder with more room"
        )
    copy = tempfile.TemporaryFile(prefix="corgi-tar-")  # noqa: SIM115  closed by the reader
    with fs.open(name, "rb") as remote:
        shutil.copyfileobj(remote, copy, 1 << 22)
    return copy


def _lost(number: int, part: str, fault: ItemFault) -> Entry:
    """Return the entry that stands for a tar, or for the rest of it."""
    return Entry(number, {"url": clean_text(part.rpartition("/")[2])}, fault)


def _dotted(number: int, sample: _Sample, suffix: str, file: str) -> Entry:
    """Return the entry of an image that is lost, as its name has dots before its suffix."""
    stem, _, kind = suffix.rpartition(".")
    own, key = f"{sample.key}.{stem}", clean_key(sample.key)
    plain_name = f"{own.rpartition('/')[2].replace('.', '_')}.{kind}"
    fault = ItemFault(
        FailureCause.DOTTED_NAME,
        f"the name has several dots: names are split at the first one, and {shown(key, 60)!r} is the sample of several "
        f"images: give each image and its texts a name of their own before the first dot: {shown(plain_name, 60)}",
    )
    name = clean_key(own)
    return Entry(number, {"url": name, "source_key": name}, fault, f"{clean_text(file)}/{name}")


def _plan(key: str, files: Files) -> _Sample:
    image, others = image_suffixes(files)
    described, text = (caption_suffix(files, image, kind) for kind in ("json", "txt"))
    texts = {suffix for suffix in files if suffix.rpartition(".")[2] in _TEXTS}
    if image is None:
        dotted, repeated = others, []
    else:  # one that has a text of its own is no mask and no other file of the sample
        with_text = {_stem(suffix) for suffix in files if suffix in texts or suffix.rpartition(".")[2] == "json"}
        further = [suffix for suffix in dotted_images(files) if suffix != image]
        dotted = [suffix for suffix in further if _stem(suffix) in with_text]
        repeated = [*others, *(suffix for suffix in further if suffix not in dotted)]
    own = {_stem(suffix) for suffix in dotted}
    unread = tuple(suffix for suffix in files if suffix in texts and suffix != text and _stem(suffix) not in own)
    return _Sample(key, files, image, tuple(dotted), tuple(repeated), described, text, unread)


def _stem(suffix: str) -> str:
    return suffix.rpartition(".")[0]


def _describe(sample: _Sample, tar: IO[bytes]) -> dict[str, Any]:
    """Return the columns that the files beside the image say."""
    described: dict[str, Any] = {}
    if sample.described is not None:
        described = _parse(_content(sample, sample.described, tar), sample.key)
    text = None
    if sample.text is not None:
        content = _content(sample, sample.text, tar)
        with parsing(FailureCause.BAD_CAPTION_FILE, sample.key):
            text = content.decode("utf-8-sig")
    captions = _texts(described, "captions") or clean_captions(text) or _texts(described, "caption")
    columns: dict[str, Any] = {"caption": captions[0] if captions else None}
    columns["captions"] = captions if len(captions) > 1 else None
    if isinstance(url := described.get("url"), str) and url:
        described["url"] = columns["url"] = recorded_url(url)
    columns["source_json"] = json.dumps(described, ensure_ascii=False) if described else None
    return columns


def _content(sample: _Sample, suffix: str, tar: IO[bytes]) -> bytes:
    span = sample.files[suffix]
    if isinstance(span, FailureCause) or span[1] > MAX_JSON_BYTES:
        reason = span.value if isinstance(span, FailureCause) else f"{span[1]} bytes"
        raise ItemFault(FailureCause.BAD_CAPTION_FILE, f"caption file is damaged: {reason}")
    return read_file(tar, span)


def _parse(content: bytes, key: str) -> dict[str, Any]:
    with parsing(FailureCause.BAD_CAPTION_FILE, key):
        described = load_json(content)
        if not isinstance(described, dict):
            raise ValueError("it holds no mapping")
    return described


def _texts(described: dict[str, Any], key: str) -> list[str]:
    """Return the captions under a key, which are a text or a list of texts."""
    value = described.get(key)
    listed = value if isinstance(value, list) else [value]
    if not all(one is None or isinstance(one, str) for one in listed):
        raise ItemFault(FailureCause.BAD_CAPTION_FILE, f"caption file is damaged: {key} is neither text nor texts")
    return clean_captions(value)
