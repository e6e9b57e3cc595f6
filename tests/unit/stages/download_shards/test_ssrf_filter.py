"""Which addresses may be connected to: the edges of every special range, all spellings, and what stands for IPv4."""

import ipaddress
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.download_shards.http.special_ranges import SPECIAL_IPV4, SPECIAL_IPV6
from stages.download_shards.http.ssrf_filter import AddressPolicy, ForbiddenAddress

#: The registries once more, as an independent list: first and last address of each range, IPv4 and IPv6.
RANGES = """
0.0.0.0 0.255.255.255
10.0.0.0 10.255.255.255
100.64.0.0 100.127.255.255
127.0.0.0 127.255.255.255
169.254.0.0 169.254.255.255
172.16.0.0 172.31.255.255
192.0.0.0 192.0.0.255
192.0.2.0 192.0.2.255
192.88.99.0 192.88.99.255
192.168.0.0 192.168.255.255
198.18.0.0 198.19.255.255
198.51.100.0 198.51.100.255
203.0.113.0 203.0.113.255
224.0.0.0 239.255.255.255
240.0.0.0 255.255.255.255
168.63.129.16 168.63.129.16
:: ::ffff:0:0
64:ff9b:1:: 64:ff9b:1:ffff:ffff:ffff:ffff:ffff
100:: 100::ffff:ffff:ffff:ffff
100:0:0:1:: 100:0:0:1:ffff:ffff:ffff:ffff
2001:: 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff
2001:db8:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff
2620:4f:8000:: 2620:4f:8000:ffff:ffff:ffff:ffff:ffff
3fff:: 3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff
5f00:: 5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff
fc00:: fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
fe80:: febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff
fec0:: feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
ff00:: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
"""
CLOUDS = "168.63.129.16 169.254.169.254 169.254.170.2 100.100.100.200 192.0.0.192 fd00:ec2::254 fd20:ce::254"
PUBLIC = "1.1.1.1 8.8.8.8 128.0.0.1 223.255.255.255 2606:4700::1111 2a00:1450:4001:82a::200e 2620:fe::fe 2001:200::1"
OUTSIDE = """
1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0
172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0
198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255 168.63.129.15
168.63.129.17 2001:200:: 2001:db7:ffff:ffff:ffff:ffff:ffff:ffff 2001:db9::1 2003::1 3ffe:ffff::1
"""


def permits(address: str) -> bool:
    return AddressPolicy([]).permits(address)


@pytest.mark.parametrize("address", [*RANGES.split(), *CLOUDS.split()])
def test_special_addresses_are_refused(address: str) -> None:
    assert not permits(address)


@pytest.mark.parametrize("address", [*PUBLIC.split(), *OUTSIDE.split()])
def test_addresses_beside_special_ranges_are_permitted(address: str) -> None:
    assert permits(address)


def test_the_list_needs_no_table_of_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        for name in ("is_global", "is_private", "is_reserved", "is_loopback", "is_link_local", "is_multicast"):
            monkeypatch.delattr(kind, name)
    assert not permits("10.0.0.1")
    assert not permits("fe80::1")
    assert permits("8.8.8.8")


def embeddings(inner: ipaddress.IPv4Address) -> dict[str, str]:
    """Return every IPv6 form of an IPv4 address that a kernel, a tunnel or a translator may understand."""
    number = int(inner)
    high, low = number >> 16, number & 0xFFFF
    parts = inner.packed
    return {
        "mapped": f"::ffff:{inner}",
        "compatible": f"::{inner}",
        "translated": f"::ffff:0:{inner}",
        "6to4": f"2002:{high:x}:{low:x}::1",
        "teredo server": f"2001:0:{high:x}:{low:x}::1",
        "teredo client": f"2001:0:808:808::{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}",
        "nat64": f"64:ff9b::{high:x}:{low:x}",
        "local nat64": f"64:ff9b:1::{high:x}:{low:x}",
        "isatap": f"2a00:1450::5efe:{high:x}:{low:x}",
        "isatap, global": f"2a00:1450::200:5efe:{high:x}:{low:x}",
        "rfc6052 /32": f"2a00:1450:{high:x}:{low:x}::",
        "rfc6052 /40": f"2a00:1450:40{parts[0]:02x}:{parts[1]:02x}{parts[2]:02x}:{parts[3]:x}::",
        "rfc6052 /48": f"2a00:1450:4001:{high:x}:{parts[2]:x}:{parts[3]:02x}00::",
        "rfc6052 /56": f"2a00:1450:4001:aa{parts[0]:02x}:{parts[1]:x}:{parts[2]:02x}{parts[3]:02x}::",
        "rfc6052 /64": f"2a00:1450:4001:aabb:{parts[0]:x}:{parts[1]:02x}{parts[2]:02x}:{parts[3]:02x}00:0",
        "rfc6052 /96": f"2a00:1450:4001:aabb::{high:x}:{low:x}",
    }


@pytest.mark.parametrize("inner", ["127.0.0.1", "10.0.0.5", "169.254.169.254", "192.168.1.1", "168.63.129.16"])
@pytest.mark.parametrize("form", list(embeddings(ipaddress.IPv4Address(0))))
def test_every_form_of_a_special_ipv4_address_is_refused(form: str, inner: str) -> None:
    assert not permits(embeddings(ipaddress.IPv4Address(inner))[form])


@pytest.mark.parametrize("form", ["mapped", "nat64", "6to4", "isatap", "rfc6052 /96"])
def test_the_same_forms_of_a_public_address_are_permitted(form: str) -> None:
    assert permits(embeddings(ipaddress.IPv4Address("8.8.8.8"))[form])


def test_an_address_with_a_scope_is_never_public() -> None:
    assert not permits("fe80::1%eth0")
    assert not permits("2606:4700::1111%1")
    assert AddressPolicy(["fe80::/10"]).permits("fe80::1%eth0")


def test_a_named_network_is_permitted_in_every_spelling() -> None:
    policy = AddressPolicy(["127.0.0.1/32"])
    assert policy.permits("127.0.0.1")
    assert policy.permits("::ffff:127.0.0.1")
    assert not policy.permits("127.0.0.2")


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.sampled_from(SPECIAL_IPV4), st.integers(0, 2**32 - 1), st.sampled_from(list(embeddings(SPECIAL_IPV4[0][0]))))
def test_no_address_of_a_special_range_passes_in_any_form(
    network: ipaddress.IPv4Network, offset: int, form: str
) -> None:
    inner = network[offset % network.num_addresses]
    assert not permits(str(inner))
    if form.startswith("rfc6052") and inner in ipaddress.IPv4Network("0.0.0.0/8"):
        return  # there, it is a small number of a host and no IPv4 address
    assert not permits(embeddings(inner)[form])


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_ipv4_address_is_in_a_listed_range_or_public(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    assert permits(str(address)) == (not any(address in network for network in SPECIAL_IPV4))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.one_of(st.integers(0, 2**128 - 1), st.sampled_from(SPECIAL_IPV6).map(lambda network: int(network[0]) + 7)))
def test_no_ipv6_address_outside_of_global_unicast_passes(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    if number >> 125 != 1 and number >> 32 not in (0xFFFF, 0x64FF9B << 64):
        assert not permits(str(address))


LOOPBACK = st.integers(0, 2**24 - 1).map(lambda low: ipaddress.IPv4Address((127 << 24) + low))
SPELLINGS = {
    "decimal": lambda parts, number: str(number),
    "hex": lambda parts, number: f"{number:#x}",
    "octal": lambda parts, number: ".".join(f"0{part:o}" for part in parts),
    "hex parts": lambda parts, number: ".".join(f"{part:#x}" for part in parts),
    "short": lambda parts, number: f"{parts[0]}.{number & 0xFFFFFF}",
    "three": lambda parts, number: f"{parts[0]}.{parts[1]}.{number & 0xFFFF}",
}


@settings(derandomize=True, max_examples=60, deadline=None)
@given(LOOPBACK, st.sampled_from(sorted(SPELLINGS)))
def test_no_notation_of_loopback_is_connected_to(address: ipaddress.IPv4Address, spelling: str) -> None:
    host = SPELLINGS[spelling](address.packed, int(address))
    with pytest.raises(ForbiddenAddress):
        AddressPolicy([]).connect(host, 9, 0.1)


@pytest.mark.parametrize(
    "host", ["localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0", "::1", "::127.0.0.1"]
)
def test_names_and_numbers_that_mean_loopback_are_refused_before_a_connection(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        with pytest.raises(ForbiddenAddress):
            AddressPolicy([]).connect(host, server.getsockname()[1], 1.0)
        with pytest.raises(TimeoutError):
            server.accept()
