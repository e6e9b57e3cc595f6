"""The formats and encodings of lists, and which format a list at a path has."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator

ListFormat = Literal["parquet", "csv", "tsv", "json", "jsonl", "txt"]
FORMATS: tuple[str, ...] = get_args(ListFormat)
FOLDER_FORMAT = "parquet"
"""Of the files in a folder for which nothing says a format."""


def _is_encoding(name: str) -> str:
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise ValueError(f"found {name!r}: no encoding of texts has this name: try utf-8, latin-1 or cp1252") from None
    return name


Encoding = Annotated[str, AfterValidator(_is_encoding)]


def format_of(path: str, given: str | None) -> str | None:
    """Return a list's format: the given one, else what the suffix says of a file or a folder; None: it says nothing.

    What is read and what enters the fingerprint both follow from it, so that no file is read whose content does not
    count.
    """
    suffix = PurePosixPath(path.rstrip("/")).suffix.lstrip(".").lower()
    return given or (suffix if suffix in FORMATS else None)
