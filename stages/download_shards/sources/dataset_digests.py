"""What identifies a row of a Hugging Face dataset, whatever its number: its columns, and the content of its image."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.contract.errors import FailureCause, ItemFault
from stages.download_shards.growth import DIGEST_BYTES


@dataclass(frozen=True)
class RowIdentity:
    """What makes two rows the same one."""

    root: str
    """The folder, in which images lie that are named and not held."""
    image_column: str
    columns: tuple[str, ...]
    """Of all files of the dataset; one that a file lacks is null in its rows."""
    schema: str
    """The types of these columns."""
    max_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON document."""
        return asdict(self)

    def digest(self, row: Mapping[str, Any]) -> bytes:
        """Return the digest of one row."""
        beside = [row.get(name) for name in self.columns]
        found = hashlib.blake2b(digest_size=DIGEST_BYTES)
        found.update(json.dumps([self.schema, beside], default=str).encode("utf-8", "surrogatepass"))
        for part in self._image(row.get(self.image_column)):
            found.update(hashlib.sha256(part).digest())
        return found.digest()

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


def path_and_content(value: Any) -> tuple[str | None, bytes | None]:
    """Return what a value of the images' column holds of the two."""
    stored = value if isinstance(value, dict) else {"path" if isinstance(value, str) else "bytes": value}
    return stored.get("path"), stored.get("bytes")


def read_inside(root: Path, name: str, max_bytes: int) -> bytes:
    """Read an image that a dataset names and does not hold; only from inside its folder."""
    path = root / name
    if "\0" in name or not path.resolve().is_relative_to(root.resolve()):
        raise ItemFault(FailureCause.OUTSIDE_FOLDER)
    if not path.is_file():
        raise ItemFault(FailureCause.NOT_A_FILE if path.exists() else FailureCause.MISSING_FILE)
    if path.stat().st_size > max_bytes:
        raise ItemFault(FailureCause.FILE_TOO_LARGE)
    return path.read_bytes()
