"""Tars of generated images in webdataset's layout: of each sample <key>.json, <key>.png, <key>.txt and what is beside.

Each sample is written when it is there and read by itself, so that neither side holds a whole tar in memory.
"""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from stages.formats.tar_samples import index_tar, read_file


class TarWriter:
    """Writes samples in the order in which they come, without owner and time: the bytes depend on these alone."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.TarFile(path, "w", format=tarfile.USTAR_FORMAT)

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """Write the files of a sample, given by their suffixes."""
        for suffix, content in sorted(files.items()):
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size, info.mode = len(content), 0o444
            self._tar.addfile(info, io.BytesIO(content))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tar.close()


def read_tar_files(path: Path, names: Iterable[tuple[str, str]]) -> Iterator[bytes]:
    """Yield the contents of files of a tar, given by key and suffix; KeyError: it does not hold one of them."""
    with path.open("rb") as tar:
        samples = index_tar(tar).samples
        for key, suffix in names:
            span = samples[key][suffix]
            if not isinstance(span, tuple):
                raise KeyError(f"{key}.{suffix}")
            yield read_file(tar, span)


def tar_suffixes(path: Path, key: str) -> frozenset[str]:
    """Return the suffixes of the files that a sample has."""
    with path.open("rb") as tar:
        return frozenset(index_tar(tar).samples.get(key, {}))
