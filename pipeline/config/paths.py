"""The files and folders that a config names: whether those of this machine are there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from pipeline.errors import UsageError
from stages.contract.config import ByContent, ConfigModel
from stages.contract.parsing import shown
from stages.storage.filesystems import is_remote

_MOST_NAMED = 5


def require_files(config: ConfigModel, where: str) -> None:
    """Look whether every file and folder of this machine that the config names is there; none is opened.

    Raises:
        UsageError: some are not, each with its key.
    """
    missing: dict[str, str] = {}  # a shared section comes again in every stage that reads it
    for key, path in _named(config, ""):
        if not _exists(path):
            missing.setdefault(path, key)
    if missing:
        lines = [f"{key}: there is no {shown(path)}" for path, key in list(missing.items())[:_MOST_NAMED]]
        more = f"; and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise UsageError(f"{where}: {'; '.join(lines)}{more}: correct the path, or put the file there")


def _named(section: ConfigModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name, info in type(section).model_fields.items():
        key = f"{prefix}.{name}" if prefix else name
        yield from _in_value(getattr(section, name), key, is_read=_is_by_content(info))


def _in_value(value: Any, key: str, *, is_read: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, ConfigModel):
        yield from _named(value, key)
    elif isinstance(value, tuple | list):
        for number, one in enumerate(value):
            yield from _in_value(one, f"{key}.{number}", is_read=is_read)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _in_value(one, f"{key}.{name}", is_read=is_read)
    elif is_read and isinstance(value, str | Path):
        yield key, str(value)


def _is_by_content(info: FieldInfo) -> bool:
    """Return whether a field holds files that are read, also where it may be null."""
    of_parts = [mark for part in get_args(info.annotation) for mark in getattr(part, "__metadata__", ())]
    return any(isinstance(mark, ByContent) for mark in [*info.metadata, *of_parts])


def _exists(path: str) -> bool:
    try:
        return is_remote(path) or not Path(path).is_absolute() or Path(path).exists()  # or it is the id of a run
    except (OSError, ValueError):
        return False
