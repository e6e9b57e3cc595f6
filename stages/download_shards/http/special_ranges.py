"""The ranges of addresses that no public server has, written out, so that no table of the interpreter's decides.

IANA IPv4 and IPv6 Special-Purpose Address Registries (iana.org/assignments/iana-ipv4-special-registry and
iana-ipv6-special-registry), with the multicast and reserved space around them, and addresses inside clouds.
Ranges of the registries that are globally reachable but serve no files (anycast of DNS, relays) are refused as well.
"""

import ipaddress

SPECIAL_IPV4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private use (RFC 1918)
        "100.64.0.0/10",  # shared address space (RFC 6598); 100.100.100.200 is the metadata server of Alibaba Cloud
        "127.0.0.0/8",  # loopback (RFC 1122)
        "168.63.129.16/32",  # Azure's platform, in every virtual network
        "169.254.0.0/16",  # link local (RFC 3927), with the metadata servers of most clouds
        "172.16.0.0/12",  # private use (RFC 1918)
        "192.0.0.0/24",  # protocol assignments (RFC 6890); 192.0.0.192 is the metadata server of Oracle's cloud
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.31.196.0/24",  # AS112 (RFC 7535)
        "192.52.193.0/24",  # automatic multicast tunneling (RFC 7450)
        "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
        "192.168.0.0/16",  # private use (RFC 1918)
        "192.175.48.0/24",  # AS112, direct delegation (RFC 7534)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved (RFC 1112), with the limited broadcast 255.255.255.255 (RFC 919)
    )
)

#: All that IANA has given out as global unicast; whatever lies outside is special, local, multicast or unassigned.
GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")

#: Inside the global unicast space; 6to4 (2002::/16) is not here, as it is decided by the IPv4 address in it.
SPECIAL_IPV6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments (RFC 2928): Teredo, ORCHID, AMT, AS112, benchmarks, drone ids
        "2001:db8::/32",  # documentation (RFC 3849)
        "2620:4f:8000::/48",  # AS112, direct delegation (RFC 7534)
        "3fff::/20",  # documentation (RFC 9637)
    )
)
"""Outside of it lie, among others: ::/128 and ::1/128; IPv4-compatible ::/96; IPv4-translated ::ffff:0:0:0/96
(RFC 2765); the local NAT64 64:ff9b:1::/48 (RFC 8215); discard-only 100::/64 and dummy 100:0:0:1::/64; SRv6 5f00::/16;
unique local fc00::/7 with the metadata servers fd00:ec2::254 and fd20:ce::254; link local fe80::/10; site local
fec0::/10; multicast ff00::/8. IPv4-mapped ::ffff:0:0/96 and NAT64 64:ff9b::/96 are decided by the IPv4 address."""
