"""The address and interface by which other nodes reach this one, and what its own name stands for."""

import ipaddress
import os
import socket
from collections.abc import Iterator

from cluster.authentication import host_of
from cluster.training import interface_of, is_loopback
from pipeline.doctor.finding import Finding, Subject, ok, warning

_NAMED = "GLOO_SOCKET_IFNAME"
_ELSEWHERE = "192.0.2.1"  # reserved for documents: no packet goes there, only a route is asked for


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the address that Ray would take and its interface, and what the host's name stands for."""
    address = own_address(host_of(subject.address) if subject.address else None)
    interface = interface_of(address)
    if interface is None:
        yield warning(
            "network",
            f"no interface has the address {address}",
            "give `ray start` --node-ip-address, and set GLOO_SOCKET_IFNAME to the interface of that network",
        )
    else:
        yield ok("network", f"other nodes reach this one at {address}, by the interface {interface}")
    yield from check_named(os.environ.get(_NAMED, ""), interface)
    yield from check_name(socket.gethostname())


def check_named(named: str, interface: str | None) -> Iterator[Finding]:
    """Yield what is wrong with the interfaces that the environment names for groups of training processes."""
    known = {name for _, name in socket.if_nameindex()}
    for one in filter(None, named.split(",")):
        if one not in known:
            yield warning(
                "network",
                f"{_NAMED} is {named!r}, and this machine has no interface {one!r} (it has {', '.join(sorted(known))})",
                f"correct it, or take it out: the interface with the node's address{_said(interface)} is used then",
            )
        elif is_loopback(one):
            yield warning(
                "network",
                f"{_NAMED} names loopback ({one}), by which no other node is reached",
                f"take it out; groups over several nodes use the one with the node's address{_said(interface)} anyway",
            )


def _said(interface: str | None) -> str:
    return f" ({interface})" if interface else ""


def own_address(host: str | None) -> str:
    """Return the address of this machine that packets to a host would come from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host or _ELSEWHERE, 9))  # of a datagram socket: nothing is sent
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def check_name(name: str) -> Iterator[Finding]:
    """Yield whether a host's name stands for an address that other nodes can use."""
    try:
        found = socket.gethostbyname(name)
    except OSError as cause:
        yield warning("network", f"the host's name {name!r} cannot be resolved ({cause})", "add it to /etc/hosts")
        return
    if ipaddress.ip_address(found).is_loopback:
        yield warning(
            "network",
            f"the host's name {name!r} stands for loopback ({found}); training chooses its interface by the node's "
            "address instead, and other programs may not",
            "let /etc/hosts give it the address that other nodes use",
        )
    else:
        yield ok("network", f"the host's name {name!r} stands for {found}")
