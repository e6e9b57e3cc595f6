"""Addresses that servers of ours listen on."""

import ipaddress
import socket
from typing import Final

from pipeline.errors import UsageError

ALL: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""All interfaces, and how this machine reaches them."""


def address(host: str, port: int) -> str:
    """Return host and port as URLs and headers have them; an IPv6 address stands in brackets."""
    return f"{_bracketed(host)}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether a host is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, such as 127.example.org
        return False


def loopback_names(host: str) -> tuple[str, ...]:
    """Return what may stand in Host before the port, of a server that listens on this loopback host.

    An IPv6 address stands in brackets there, in whichever form the client was given it, and browsers shorten it.
    """
    return tuple(sorted({"localhost", "127.0.0.1", "[::1]"} | {_bracketed(one) for one in _forms(host)}))


def _forms(host: str) -> set[str]:
    try:
        return {host, ipaddress.ip_address(host).compressed}
    except ValueError:  # a name
        return {host}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def reached_at(host: str) -> str:
    """Return a host's own address; of all interfaces, this machine's loopback one."""
    return ALL.get(host, host)


def require_free(host: str, port: int, where: str) -> None:
    """Check that this process can listen there.

    Raises:
        UsageError: it cannot; ``where`` begins the sentence.
    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except (OSError, OverflowError, UnicodeError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{where}: cannot listen on {address(host, port)} ({found}); give another with --port or --host"
        ) from None
