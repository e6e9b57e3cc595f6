import socket

import pytest

from stages.download_shards.http.ssrf_filter import AddressPolicy, ForbiddenAddress

REFUSED = (
    "127.0.0.1 127.8.9.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 0.0.0.0 100.64.0.1 224.0.0.1 255.255.255.255 "
    "::1 :: fe80::1 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2002:a00:1::"
)


@pytest.mark.parametrize("address", REFUSED.split())
def test_addresses_that_are_not_public_are_refused(address):
    assert not AddressPolicy([]).permits(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_permitted(address):
    assert AddressPolicy([]).permits(address)


def test_a_named_network_is_permitted_in_every_spelling():
    policy = AddressPolicy(["127.0.0.1/32"])
    assert policy.permits("127.0.0.1")
    assert policy.permits("::ffff:127.0.0.1")
    assert not policy.permits("127.0.0.2")


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1"])
def test_names_and_numbers_that_mean_loopback_are_refused_before_a_connection(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        with pytest.raises(ForbiddenAddress):
            AddressPolicy([]).connect(host, server.getsockname()[1], 1.0)
        with pytest.raises(TimeoutError):
            server.accept()
