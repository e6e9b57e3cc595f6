"""Refuse at once a list whose first addresses the address policy refuses all: nothing of it would be downloaded."""

import ipaddress
from collections.abc import Sequence

from stages.contract.errors import InputFault
from stages.contract.parsing import shown
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.http.fetch import host_of
from stages.download_shards.http.ssrf_filter import AddressPolicy

FIRST = 256
"""How many addresses are looked at."""


def refuse_private(urls: Sequence[str], config: DownloadShardsConfig) -> None:
    """Raise InputFault where no address may be connected to, as their hosts are all private ones.

    Only numeric hosts and localhost are known here: a check asks no name server about a list from outside.
    """
    if not urls or config.engine != "guarded" or config.min_yield == 0:
        return
    hosts = {host_of(url) for url in urls}
    policy = AddressPolicy(config.allowed_networks)
    if not all(_is_private(host, policy) for host in hosts):
        return
    first = host_of(urls[0])
    raise InputFault(
        f"download_shards.source: the first {len(urls)} addresses lead to private hosts ({shown(first)}"
        f"{', …' if len(hosts) > 1 else ''}), and only public ones are connected to: name the networks that you trust "
        "in download_shards.allowed_networks, or give another list"
    )


def _is_private(host: str, policy: AddressPolicy) -> bool:
    """Tell whether a host is known, without looking it up, to be one that is not connected to."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if f".{host}".endswith(".localhost") else host)
    except ValueError:  # a name
        return False
    return not policy.permits(str(address))
