"""Refuse at once a list whose first addresses the address policy refuses all: nothing of it would be downloaded."""

import socket
import threading
import time
from collections.abc import Sequence

from stages.contract.errors import InputFault
from stages.contract.parsing import shown
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.http.fetch import host_of
from stages.download_shards.http.ssrf_filter import AddressPolicy

FIRST = 256
"""How many addresses are looked at."""
_SECONDS = 3.0  # for all names together
_THREADS = 32


def refuse_private(urls: Sequence[str], config: DownloadShardsConfig) -> None:
    """Raise InputFault where no address may be connected to, as their hosts are all private ones.

    A host whose name is not resolved in a few seconds counts as a public one: the download says what it is.
    """
    if not urls or config.engine != "guarded" or config.min_yield == 0:
        return
    hosts = {host_of(url) for url in urls}
    if "" in hosts or not _are_private(sorted(hosts), AddressPolicy(config.allowed_networks)):
        return
    first = host_of(urls[0])
    raise InputFault(
        f"download_shards.source: the first {len(urls)} addresses lead to private hosts ({shown(first)}"
        f"{', …' if len(hosts) > 1 else ''}), and only public ones are connected to: name the networks that you trust "
        "in download_shards.allowed_networks, or give another list"
    )


def _are_private(hosts: Sequence[str], policy: AddressPolicy) -> bool:
    """Tell whether all hosts are known to be private, by threads that may outlive the question."""
    left, found, lock = list(hosts), list[bool](), threading.Lock()

    def poll() -> None:
        while True:
            with lock:
                if not left or not all(found):
                    return
                host = left.pop()
            is_private = not _is_permitted(host, policy)
            with lock:
                found.append(is_private)

    threads = [threading.Thread(target=poll, daemon=True) for _ in range(min(_THREADS, len(hosts)))]
    until = time.monotonic() + _SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    with lock:
        return len(found) == len(hosts) and all(found)


def _is_permitted(host: str, policy: AddressPolicy) -> bool:
    try:
        resolved = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return any(policy.permits(str(entry[4][0])) for entry in resolved)
