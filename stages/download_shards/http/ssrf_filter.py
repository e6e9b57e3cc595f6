"""Which addresses may be connected to: public ones, and those that the config names.

What is checked is the numeric address that the socket is then connected to, so that no notation of it (decimal, octal,
a name that resolves to it, an IPv6 form of it) and no redirect evades the check.
"""

import ipaddress
import socket
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOW_32_BITS = 0xFFFFFFFF


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
            else:
                return connection
        raise error or OSError("no address")

    def permits(self, address: str) -> bool:
        """Return whether a numeric address may be connected to."""
        plain = _unwrap(ipaddress.ip_address(address))
        if any(plain in network for network in self._allowed):
            return True
        return plain.is_global and not plain.is_multicast


def _unwrap(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for (mapped, 6to4, NAT64), or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & _LOW_32_BITS)
    return address.ipv4_mapped or address.sixtofour or address
