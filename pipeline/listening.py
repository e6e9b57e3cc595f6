"""Addresses that servers of ours listen on."""

import ipaddress
import socket
from typing import Final

from pipeline.errors import UsageError

ALL: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""All interfaces, and how this machine reaches them."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def address(host: str, port: int) -> str:
    """Return host and port as URLs and headers have them; an IPv6 address stands in brackets."""
    return f"{_bracketed(host)}:{port}"


def host_headers(host: str, port: int) -> frozenset[str]:
    """Return what clients may write in Host for this host and port: the default ports of http and https are left out.

    A server at port 443 gets its requests from a proxy that speaks https, with the Host that browsers gave it.
    """
    with_port = address(host, port)
    return frozenset({with_port, _bracketed(host)} if port in _DEFAULT_PORTS.values() else {with_port})


def origins(host_header: str, port: int) -> frozenset[str]:
    """Return what a browser writes in Origin on a page of this server, by the Host of the request and the port."""
    is_https = port == _DEFAULT_PORTS["https"]
    hosts = {host_header} | {host_header.removesuffix(f":{port}")} if port in _DEFAULT_PORTS.values() else {host_header}
    return frozenset(f"{scheme}://{host}" for scheme in ("http", *["https"] * is_https) for host in hosts)


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
