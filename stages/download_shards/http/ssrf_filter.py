"""Which addresses may be connected to: public ones, and those that the config names.

What is checked is the numeric address that the socket is then connected to, so that no notation of it (decimal, octal,
a name that resolves to it, an IPv6 form of it) and no redirect evades the check. Proxies that the environment names
are not used: a proxy would resolve and connect unchecked.
"""

import ipaddress
import socket
from collections.abc import Iterator, Sequence

from stages.download_shards.http.special_ranges import GLOBAL_IPV6, SPECIAL_IPV4, SPECIAL_IPV6

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_ISATAP = frozenset((0x00005EFE, 0x02005EFE))  # the upper half of the interface id (RFC 5214, section 6.1)


class ForbiddenAddress(Exception):
    """The host is a private, loopback or otherwise not public address."""


class AddressPolicy:
    """Opens connections to permitted addresses only; threads may share one."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed: list[Network] = [ipaddress.ip_network(network) for network in allowed]

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connect to the first address that accepts of those permitted; ForbiddenAddress: there are none of these."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        permitted = [entry for entry in found if self.permits(str(entry[4][0]))]
        if not permitted:
            raise ForbiddenAddress
        error: OSError | None = None
        for family, kind, protocol, _, address in permitted:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(timeout)
                connection.connect(address)
            except OSError as failed:
                connection.close()
                error = failed
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise error or OSError("no address")

    def permits(self, address: str) -> bool:
        """Return whether a numeric address may be connected to; one with a scope (``%eth0``) is never public."""
        numeric, scoped, _ = address.partition("%")
        found = ipaddress.ip_address(numeric)
        plain = _unwrap(found)
        if any(form in network for network in self._allowed for form in (found, plain)):
            return True
        return not scoped and _is_public(plain)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in SPECIAL_IPV4)
    if address not in GLOBAL_IPV6 or any(address in network for network in SPECIAL_IPV6):
        return False
    return all(_is_public(inner) for inner in _embedded(address))


def _unwrap(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for (mapped, NAT64, 6to4), or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _MAPPED or address in _NAT64:
        return _bits(address, 96)
    return _bits(address, 16) if address in _SIX_TO_FOUR else address


def _embedded(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """Yield the IPv4 addresses that tunnels and translators may read out of a global address.

    ISATAP is recognised by its interface id. A translator's own prefix (RFC 6052, section 2.2) is not known here, but
    its addresses have bits 64 to 71 and all after the IPv4 address zero; of /96, those with an interface id that is an
    IPv4 address alone. There, 0.0.0.0/8 is no IPv4 address but a small number, as in 2606:4700::1111.
    """
    interface = int(address) & (2**64 - 1)
    if interface >> 32 in _ISATAP:
        yield _bits(address, 96)
    if interface >> 56:
        return
    found = [_split(address, length) for length in (32, 40, 48, 56, 64)]
    found += [_bits(address, 96)] if interface >> 32 == 0 else []
    yield from (inner for inner in found if inner is not None and inner not in _THIS_NETWORK)


def _bits(address: ipaddress.IPv6Address, first: int) -> ipaddress.IPv4Address:
    """Return the 32 bits from ``first`` on."""
    return ipaddress.IPv4Address(int(address) >> (96 - first) & 0xFFFFFFFF)


def _split(address: ipaddress.IPv6Address, length: int) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address after a prefix of this length, around bits 64 to 71; None: the rest is not zero."""
    value, before = int(address), 64 - length
    after = 32 - before
    if value & ((1 << (56 - after)) - 1):
        return None
    upper = value >> 64 & ((1 << before) - 1)
    lower = value >> (56 - after) & ((1 << after) - 1)
    return ipaddress.IPv4Address(upper << after | lower)
