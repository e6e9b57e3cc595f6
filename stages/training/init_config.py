"""With whose weights a training begins: ``init_from`` names a run of the store, or a folder."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from stages.contract.config import AnyAddress, ByContent, beside_config_unless_uri
from stages.storage.filesystems import is_remote

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")


def _run_or_address(value: Any, info: ValidationInfo) -> Any:
    """Keep what may be a run's id, where there is no such file or folder."""
    found = beside_config_unless_uri(value, info)
    is_run = isinstance(value, str) and _RUN.fullmatch(value) and not Path(found).exists()
    return value if is_run else found


def names_run(value: str) -> bool:
    """Return whether a checked ``init_from`` is a run's id, not an address."""
    return not is_remote(value) and not Path(value).is_absolute()


#: A run's id, or an address as in :data:`stages.contract.config.Address`; planning puts a run's folder in its place.
InitFrom = Annotated[AnyAddress, BeforeValidator(_run_or_address), ByContent()]
