"""How remote stores and sources are reached, and how much of them is kept on a machine; no part of any fingerprint."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, field_validator

from stages.contract.config import ConfigModel
from stages.storage.cache import FOLDER, GIGABYTES

_SECRETS = frozenset(("key", "token", "credential", "credentials", "connection_string", "aws_access_key_id"))
_SECRET_ENDINGS = ("secret", "password", "passphrase", "access_key", "account_key", "private_key", "_token")


class StorageConfig(ConfigModel):
    """Options of fsspec's file systems, which every process of a run reads from environment variables."""

    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="by protocol, such as {s3: {endpoint_url: https://…, config_kwargs: {connect_timeout: 20}}}; "
        "credentials come from the environment alone",
    )
    cache: Path | None = Field(
        None, description="folder for copies of remote files; none: one in the machine's temporary folder"
    )
    cache_gigabytes: PositiveFloat | None = Field(
        None, description="most that the copies on a machine take; none: a quarter of the disk"
    )

    @field_validator("options")
    @classmethod
    def _hold_no_secrets(cls, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Refuse what would end up in run records and on the dashboard."""
        for key, value in _leaves(options):
            name = key.rpartition(".")[2].lower()
            named = name in _SECRETS or name.endswith(_SECRET_ENDINGS)
            in_address = isinstance(value, str) and "@" in value.partition("://")[2].partition("/")[0]
            if named or in_address:
                raise ValueError(
                    f"{key}: credentials are not allowed here, since the config is kept with the run: give them by the "
                    "environment (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
                )
        return options

    def environment(self) -> dict[str, str]:
        """Return the variables by which fsspec and :mod:`stages.storage.cache` learn of this section."""
        variables = {f"FSSPEC_{protocol.upper()}": json.dumps(options) for protocol, options in self.options.items()}
        if self.cache is not None:
            variables[FOLDER] = str(self.cache.expanduser().resolve())
        if self.cache_gigabytes is not None:
            variables[GIGABYTES] = str(self.cache_gigabytes)
        return variables


def _leaves(tree: dict[str, Any], key: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        dotted = f"{key}.{name}" if key else str(name)
        if isinstance(value, dict):
            yield from _leaves(value, dotted)
        else:
            yield dotted, value
