"""Options that many commands have."""

import os
from typing import Annotated, Final

import typer

STORE_VARIABLE: Final = "CORGI_STORE"

StoreOption = Annotated[
    str, typer.Option("--store", envvar=STORE_VARIABLE, help="the store: a folder or fsspec URI", show_envvar=True)
]


def default_store() -> str:
    """Return the store of experiments and commands that name none: that of the environment, else ./workspace."""
    return os.environ.get(STORE_VARIABLE) or "workspace"
