"""Remote and local addresses: the only use of fsspec, and explanations of its file systems' errors.

How a store is reached (endpoint, region, retries) is set by fsspec's own environment variables
(``FSSPEC_S3={"endpoint_url": …}``), so that every process of a run has it; credentials are found by the file system's
library where it always looks for them, and are never read by our code.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping

import fsspec
from fsspec.implementations.local import LocalFileSystem

from stages.contract.errors import InputFault, StageError

#: What was found and what to do next, by the names of error classes (so that no file system's library is imported).
_CAUSES: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}),
        "no credentials were found",
        "set the variables of the file system (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)",
    ),
    (
        frozenset({"EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "ConnectionRefusedError"}),
        "nothing responds at the endpoint",
        "correct the endpoint (AWS_ENDPOINT_URL or storage.options.s3.endpoint_url), or check the network",
    ),
    (
        frozenset({"PermissionError"}),
        "access is denied",
        "check the credentials in the environment, and what they are allowed to do there",
    ),
    (
        frozenset({"FileNotFoundError"}),
        "there is no such bucket, folder or file",
        "correct the address, or create the bucket",
    ),
    (
        frozenset({"ImportError", "ModuleNotFoundError"}),
        "the library of this file system is not installed",
        "install it (for s3:// `pip install 'corgi-pipeline[s3]'`, for gs:// `pip install gcsfs`)",
    ),
)


def is_remote(address: str) -> bool:
    """Return whether an address names a file system; otherwise it is a path on this machine."""
    return "://" in address


def open_address(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of an address, and the path in it without a slash at its end.

    Listings are not cached: other processes write, and an old listing would hide what they wrote. An address that holds
    a password is refused, as it would end up in records and logs.
    """
    protocol, mark, rest = address.partition("://")
    if mark and ":" in rest.partition("/")[0].rpartition("@")[0]:
        host = rest.partition("/")[0].rpartition("@")[2]
        raise InputFault(
            f"{protocol}://…@{host}: the address holds a user name and a password: allowed are addresses without: "
            "put credentials into the environment (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    fs, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
    return fs, root.rstrip("/")


def kind_at(fs: fsspec.AbstractFileSystem, path: str) -> str | None:
    """Return "file", "directory", or None where there is nothing; fsspec's own isfile and isdir hide other errors."""
    try:
        return str(fs.info(path)["type"])
    except FileNotFoundError:
        return None


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Return whether a file system is this machine's own."""
    return isinstance(fs, LocalFileSystem)


def describe_error(error: BaseException) -> str:
    """Return what an error of a file system means: what was found, and what to do next."""
    names = {kind.__name__ for kind in type(error).__mro__}
    message = " ".join(str(error).split())
    for known, found, remedy in _CAUSES:
        if names & known:
            return f"{found} ({message}): {remedy}"
    return f"it cannot be used ({type(error).__name__}: {message}): correct the address, or mend what is there"


@contextlib.contextmanager
def explaining(address: str) -> Iterator[None]:
    """Raise errors of a remote file system as an InputFault that explains them; those of local paths as they are."""
    try:
        yield
    except StageError:
        raise
    except Exception as error:
        if not is_remote(address):
            raise
        raise InputFault(f"{address}: {describe_error(error)}") from error


def use_environment(variables: Mapping[str, str]) -> None:
    """Set how this process, and those that it starts, reach remote file systems."""
    if variables:
        os.environ.update(variables)
        fsspec.config.set_conf_env(fsspec.config.conf)
