"""What identifies a row of a Hugging Face dataset, whatever its number: its columns, and the content of its image."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from stages.contract.errors import FailureCause, ItemFault
from stages.contract.parsing import shown
from stages.download_shards.growth import DIGEST_BYTES
from stages.download_shards.row_digests import plain_value
from stages.download_shards.sources.rows import clean_captions
from stages.storage.walking import is_hidden


@dataclass(frozen=True)
class RowIdentity:
    """What makes two rows the same one."""

    root: str
    """The folder, in which images lie that are named and not held."""
    image_column: str
    columns: tuple[str, ...]
    """Of all files of the dataset; one that a file lacks is null in its rows."""
    schema: str
    """The types of these columns, which earlier versions counted in."""
    max_bytes: int
    caption_column: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON document."""
        return asdict(self)

    def digests(self, row: Mapping[str, Any]) -> bytes:
        """Return two digests of one row: of what it says itself, and the one that earlier versions made.

        Each has :data:`DIGEST_BYTES`; the second depends on the columns of all files.
        """
        own = {name: self._own(name, row.get(name)) for name in self.columns}
        own = {name: value for name, value in own.items() if value is not None}
        earlier = [self.schema, [row.get(name) for name in self.columns]]
        image = [hashlib.sha256(part).digest() for part in self._image(row.get(self.image_column))]
        said = json.dumps(["own", own], sort_keys=True, default=str), json.dumps(earlier, default=str)
        return b"".join(_digest(text.encode("utf-8", "surrogatepass"), image) for text in said)

    def _own(self, name: str, value: Any) -> Any:
        if name == self.caption_column:
            return None if isinstance(value, float) else clean_captions(value) or None
        return plain_value(value)

    def _image(self, value: Any) -> Sequence[bytes]:
        """Return the path in a row, if any, and the image: in the row, or in a file of the folder."""
        path, content = path_and_content(value)
        name = (path or "").encode("utf-8", "surrogatepass")
        if content is None and path:
            try:
                content = read_inside(Path(self.root), path, self.max_bytes)
            except (ItemFault, OSError, ValueError) as fault:
                return name, b"", str(fault).encode("utf-8", "surrogatepass")
        return (name,) if content is None else (name, content)


def _digest(text: bytes, image: Iterable[bytes]) -> bytes:
    return hashlib.blake2b(b"".join([text, *image]), digest_size=DIGEST_BYTES).digest()


def path_and_content(value: Any) -> tuple[str | None, bytes | None]:
    """Return what a value of the images' column holds of the two."""
    stored = value if isinstance(value, dict) else {"path" if isinstance(value, str) else "bytes": value}
    return stored.get("path"), stored.get("bytes")


def read_inside(root: Path, name: str, max_bytes: int) -> bytes:
    """Read an image that a dataset names and does not hold; only from inside its folder, and nothing hidden.

    What is hidden does not count in the dataset's fingerprint.
    """
    path = root / name
    if "\0" in name or not path.resolve().is_relative_to(root.resolve()):
        raise ItemFault(FailureCause.OUTSIDE_FOLDER)
    if any(is_hidden(part) for part in PurePath(name).parts if part != ".."):
        raise ItemFault(FailureCause.HIDDEN_FILE, f"{FailureCause.HIDDEN_FILE}: {shown(name)}")
    if not path.is_file():
        raise ItemFault(FailureCause.NOT_A_FILE if path.exists() else FailureCause.MISSING_FILE)
    if path.stat().st_size > max_bytes:
        raise ItemFault(FailureCause.FILE_TOO_LARGE)
    return path.read_bytes()
