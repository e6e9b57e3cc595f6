"""What a trial sees of a store: which units have a record, which file each is, and the digests of an artifact."""

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.s3_server import S3Server


class StoreView(Protocol):
    """A store as it is from outside."""

    @property
    def uri(self) -> str:
        """Where it is."""

    def records(self) -> Mapping[str, str]:
        """Return every unit record by its name below artifacts/, with what changes when it is written again."""

    def digests(self, stage: str) -> dict[str, str]:
        """Return the SHA-256 of every file of the stage's only artifact; empty: there is none, or it is unfinished."""

    def partial_files(self) -> list[str]:
        """Return files under temporary names."""


@dataclass(frozen=True)
class FolderView:
    """A store in a folder."""

    folder: Path

    @property
    def uri(self) -> str:
        return str(self.folder)

    def records(self) -> Mapping[str, str]:
        found = {}
        for path in self.folder.glob("artifacts/*/*/units/*.json"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found[f"{path.parts[-4]}/{path.stem}"] = f"{status.st_ino}-{status.st_mtime_ns}"
        return found

    def digests(self, stage: str) -> dict[str, str]:
        folders = [path.parent for path in self.folder.glob(f"artifacts/{stage}/*/_COMPLETE")]
        if len(folders) != 1:
            return {}
        files = {str(path.relative_to(folders[0])): path for path in folders[0].rglob("*") if path.is_file()}
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if _counts(name)}

    def partial_files(self) -> list[str]:
        return [str(path.relative_to(self.folder)) for path in self.folder.rglob(".tmp-*")]


@dataclass(frozen=True)
class BucketView:
    """A store on a server of S3's protocol, seen past whatever is put between it and the run."""

    server: S3Server
    uri: str

    def records(self) -> Mapping[str, str]:
        found = self._listing("/units/")
        return {f"{name.split('/')[-4]}/{Path(name).stem}": str(one["LastModified"]) for name, one in found.items()}

    def digests(self, stage: str) -> dict[str, str]:
        contents = self.server.contents(f"{self.uri}/artifacts/{stage}")
        if sum(name.endswith("/_COMPLETE") for name in contents) != 1:
            return {}
        files = {name.partition("/")[2]: content for name, content in contents.items()}
        return {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if _counts(name)}

    def partial_files(self) -> list[str]:
        return list(self._listing("/.tmp-"))

    def _listing(self, part: str) -> dict[str, dict[str, object]]:
        found = self.server.file_system().find(f"{self.uri}/artifacts", detail=True)
        return {name: one for name, one in found.items() if part in name}


def _counts(name: str) -> bool:
    """Whether a file is part of the artifact's data: what was found damaged is kept beside it."""
    return not name.startswith("damaged/")
