"""How remote stores and sources are reached, and how much of them is kept on a machine; no part of any fingerprint."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeFloat, PlainSerializer, PositiveFloat

from stages.contract.bounds import LONGEST_WAIT, MOST_GIGABYTES
from stages.contract.config import ConfigModel
from stages.contract.secrets import redact_options
from stages.contract.texts import one_line, show_value
from stages.storage.cache import FOLDER, GIGABYTES
from stages.storage.patience import PATIENCE

_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)
_PROTOCOL = re.compile(r"[a-z0-9][a-z0-9+.-]*")


def _not_empty(path: Any) -> Any:
    if path == "":
        raise ValueError("found '': expected a folder")
    return path


def _absolute(path: Path) -> Path:
    try:
        if b"\0" in os.fsencode(path):
            raise ValueError(f"found {show_value(str(path))}: expected a path without NUL")
        return Path(os.path.abspath(path.expanduser()))  # links in it are checked where it is used
    except (RuntimeError, UnicodeError) as error:
        raise ValueError(f"found {one_line(path, 200)}, which is no path here: {one_line(error, 200)}") from None


def _carried_as_json(options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the options; ValueError: a variable of the environment would not carry one of them as it is."""
    for protocol, values in options.items():
        if not _PROTOCOL.fullmatch(protocol):
            raise ValueError(
                f"{show_value(protocol, 100)}: expected the protocol of a file system in small letters and digits, as "
                "in s3, which a variable FSSPEC_S3 can name"
            )
        for name, value in values.items():
            try:
                carried = json.dumps(value, allow_nan=False)
                is_carried = json.loads(carried) == value and not _SURROGATE.search(carried)
            except (TypeError, ValueError):
                is_carried = False
            if not is_carried:
                raise ValueError(
                    f"{one_line(f'{protocol}.{name}', 100)}: expected a text, a finite number, true, false or null, or "
                    "lists and mappings of these, with texts as keys; write dates and the like in quotes"
                )
    return options


class StorageConfig(ConfigModel):
    """Options of fsspec's file systems, which every process of a run gets as environment variables."""

    options: Annotated[
        dict[str, dict[str, Any]],
        AfterValidator(_carried_as_json),
        PlainSerializer(redact_options, when_used="json"),
    ] = Field(
        default_factory=dict,
        repr=False,
        description="by protocol, such as {s3: {endpoint_url: https://…, config_kwargs: {connect_timeout: 20}}}; "
        "values that may be secret are neither recorded nor shown",
    )
    cache: Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_absolute)] | None = Field(
        None, description="folder for copies of remote files; none: one in the machine's temporary folder"
    )
    cache_gigabytes: PositiveFloat | None = Field(
        None, le=MOST_GIGABYTES, description="most that the copies on a machine take; none: a quarter of the disk"
    )
    lease_timeout: float = Field(
        60.0,
        ge=1,
        le=3600,
        description="seconds without a sign of life of its driver after which another may take over",
    )
    lease_wait: NonNegativeFloat = Field(
        86_400.0,
        le=LONGEST_WAIT,
        description="seconds to wait for another driver that makes the same; 0: refuse where it is alive",
    )

    patience: NonNegativeFloat = Field(
        10.0,
        le=LONGEST_WAIT / 60,
        description="minutes for which reads and writes are tried again while a store or source is away",
    )

    def environment(self) -> dict[str, str]:
        """Return the variables by which fsspec and :mod:`stages.storage.cache` learn of this section."""
        variables = {f"FSSPEC_{protocol.upper()}": json.dumps(options) for protocol, options in self.options.items()}
        if self.cache is not None:
            variables[FOLDER] = str(self.cache)
        if self.cache_gigabytes is not None:
            variables[GIGABYTES] = str(self.cache_gigabytes)
        return variables

    def worker_environment(self) -> dict[str, str]:
        """Return these variables, and for how long a worker waits for what is away; a driver waits only at work."""
        return self.environment() | {PATIENCE: str(self.patience)}
