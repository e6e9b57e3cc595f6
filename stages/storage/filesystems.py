"""Remote and local addresses: the one way to fsspec, and explanations of its file systems' errors.

How a store is reached (endpoint, region, retries) is set by fsspec's own environment variables
(``FSSPEC_S3={"endpoint_url": …}``), so that every process of a run has it; credentials are found by the file system's
library where it always looks for them, in these variables, or in the address.
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec import available_protocols
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from stages.contract.errors import InputFault, StageError
from stages.contract.installing import install_words
from stages.contract.secrets import has_password, redact_addresses, redact_logs, remember_environment
from stages.contract.texts import one_line
from stages.storage.patience import PatientFileSystem

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
        f"install it (for s3:// {install_words('s3')}, for gs:// `pip install gcsfs`)",
    ),
)


_OPTIONS = "FSSPEC_"  # begins the names of fsspec's own variables, each of which holds a file system's options
_own_options: dict[str, tuple[str, str]] = {}
"""By variable: what the environment itself held, and what :func:`use_environment` made of it."""
_LOCAL_PROTOCOLS = ("file", "local")
_NAMED = ("s3", "s3a", "gs", "gcs", "http", "https")  # protocols whose addresses begin with a bucket or host
_SHOWN = 200  # characters of an address in messages


def is_remote(address: str) -> bool:
    """Return whether an address names a file system; otherwise it is a path on this machine."""
    return "://" in address


def root_address(address: str) -> str:
    """Return the address of a store as all processes write it: a URI, or an absolute path of this machine.

    Raises:
        InputFault: nothing, no path here (no such user, links in a circle), or a URI that names no place, or that
            fsspec would take for a pattern.
    """
    if not address:
        raise InputFault("found '': expected a folder, or an address such as s3://bucket/corgi")
    if is_remote(address):
        _require_target(address)
        if has_magic(address):  # it would delete and move what matches, other stores beside this one too
            raise InputFault(
                f"found {one_line(address, 200)}: expected an address without *, ? and [, which are patterns"
            )
        return address.rstrip("/")
    try:
        return str(Path(address).expanduser().resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise InputFault(f"{one_line(address, 200)} is no path here ({one_line(error, 200)})") from None


def _require_target(address: str) -> None:
    """Refuse a URI that names no file system or nothing in it, as an empty variable leaves it (``s3://$BUCKET``).

    fsspec would take such a one for a path in the current folder, or its first folder for a bucket.
    """
    *wrappers, last = address.split("::")
    protocol, mark, rest = last.partition("://")
    shown = one_line(redact_addresses(address), _SHOWN)
    unknown = [one for one in (part.partition("://")[0] for part in wrappers) if one not in available_protocols()]
    is_path = bool(wrappers) and not mark and last.startswith("/")  # of an archive on this machine
    if not protocol or not (mark or is_path) or unknown:
        raise InputFault(f"found {shown}: expected the address of a file system, such as s3://bucket/corgi")
    if is_path:
        return
    if protocol.lower() in _LOCAL_PROTOCOLS:
        if not rest.startswith("/"):
            raise InputFault(f"found {shown}: expected a whole path of this machine, such as file:///data/corgi")
    elif not rest.strip("/") or (protocol.lower() in _NAMED and rest.startswith("/")):
        raise InputFault(f"found {shown}: expected a bucket, host or path behind {protocol}://: is a variable empty?")


def local_path(address: str) -> str:
    """Return the path of a ``file://`` address, so that all rules of local paths hold for it; others as they are."""
    protocol, mark, rest = address.partition("://")
    return rest if mark and protocol.lower() in _LOCAL_PROTOCOLS else address


def wraps_local_path(address: str) -> bool:
    """Return whether an address reaches this machine's files through another file system (``dir::file:///data``)."""
    *wrappers, last = address.split("::")
    return bool(wrappers) and last.partition("://")[0].lower() in _LOCAL_PROTOCOLS


def open_address(address: str, *, keep_listings: bool = False) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of an address, and the path in it without a slash at its end.

    Listings are not cached: other processes write, and an old listing would hide what they wrote. With
    ``keep_listings`` they are, for this file system alone, so that one listing answers for all files of a folder. What
    is away is waited for (:mod:`stages.storage.patience`).
    """
    if is_remote(address):
        _require_target(address)
    _refuse_useless_login(address)
    caching = {"skip_instance_cache": True} if keep_listings else {"use_listings_cache": False}
    fs, root = fsspec.core.url_to_fs(address, **caching, **web_options(address))
    return PatientFileSystem(fs, one_line(redact_addresses(address), _SHOWN)), root.rstrip("/")


def web_options(address: str) -> dict[str, Any]:
    """Return what keeps fsspec's HTTP at the host that an address names: a redirect may lead into any network."""
    protocols = [part.partition("://")[0].lower() for part in address.split("::")]
    if not {"http", "https"} & set(protocols):
        return {}
    configured = {name: fsspec.config.conf.get(name, {}).get("client_kwargs", {}) for name in ("http", "https")}
    options = {
        name: {"client_kwargs": given | {"trace_configs": [_redirect_check()]}} for name, given in configured.items()
    }
    return options if len(protocols) > 1 else options[protocols[0]]


@functools.cache
def _redirect_check() -> Any:
    import aiohttp  # which fsspec's HTTP uses; others need not have it

    async def check(_session: Any, _context: Any, asked: Any) -> None:
        target = asked.url.join(type(asked.url)(asked.response.headers.get("Location", "")))
        if (target.scheme, target.host, target.port) != (asked.url.scheme, asked.url.host, asked.url.port):
            raise InputFault(
                f"{asked.url.scheme}://{one_line(asked.url.host)}: redirects to {one_line(target.host, 80)}: allowed "
                "are addresses that are answered by the host that they name: download the file, and give its path"
            )

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    return trace


def _refuse_useless_login(address: str) -> None:
    """Refuse a password in an address of a file system that reads none there: it would be taken for the bucket."""
    for part in address.split("::"):
        protocol, mark, _ = part.partition("://")
        if mark and has_password(part) and not _reads_login(protocol, part):
            raise InputFault(
                f"{redact_addresses(part)}: the address holds a user name and a password, which {protocol}:// does not "
                "read: allowed are addresses without: put credentials into the environment (for S3 AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY), or into storage.options"
            )


def _reads_login(protocol: str, address: str) -> bool:
    if protocol in {"http", "https"}:
        return True
    try:
        found = fsspec.get_filesystem_class(protocol)._get_kwargs_from_urls(address)
    except (ImportError, ValueError):  # which the caller meets too, and explains
        return True
    return "username" in found or "password" in found


def kind_at(fs: fsspec.AbstractFileSystem, path: str) -> str | None:
    """Return "file", "directory", or None where there is nothing; fsspec's own isfile and isdir hide other errors."""
    try:
        return str(fs.info(path)["type"])
    except FileNotFoundError:
        return None


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Return whether a file system is this machine's own."""
    return isinstance(getattr(fs, "wrapped", fs), LocalFileSystem)


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


def _added_to_own(name: str, value: str) -> str:
    """Return a variable's value, with what the environment itself says under this name where it holds options."""
    if not name.startswith(_OPTIONS):
        return value
    found = os.environ.get(name, "")
    before, set_before = _own_options.get(name, (found, found))
    own = before if found == set_before else found
    whole = _merged(_options_in(own), json.loads(value))
    added = value if whole == json.loads(value) else json.dumps(whole)
    _own_options[name] = own, added
    return added


def _options_in(value: str) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _merged(own: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with others added, group by group."""
    both = {key: _merged(own[key], added[key]) for key in added if _are_groups(own.get(key), added[key])}
    return {**own, **added, **both}


def _are_groups(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def use_environment(variables: Mapping[str, str]) -> None:
    """Set how this process, and those that it starts, reach remote file systems; what is secret of it is not logged.

    Options of a file system are added to those that its variable held before, and win over them; what an earlier call
    added is not kept.
    """
    if variables:
        os.environ.update({name: _added_to_own(name, value) for name, value in variables.items()})
        fsspec.config.set_conf_env(fsspec.config.conf)
    remember_environment()
    redact_logs()
