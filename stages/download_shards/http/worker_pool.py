"""Fetch addresses by threads: few at a time from each host, failed ones again, and never waiting for ever.

A host that is away costs the time of a few addresses, not of all that a list has of it: where so many attempts one
after another made no connection, and none was made meanwhile, its other addresses are not tried in this round.
"""

import collections
import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cluster.attention import Countdown
from stages.contract.errors import FailureCause, ItemFault
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.http.fetch import FetchFault, Origin, host_of, origin_of

Fetched = tuple[int, bytes | ItemFault]
_POLL_SECONDS = 0.1
MOST_UNREACHED = 8
"""So many attempts without a connection, one after another, and a host is taken to be away for the round."""


class _Taken(NamedTuple):
    """An address that is being fetched, and how often its host had been reached when that began."""

    number: int
    url: str
    contacts: int


class _HostQueue:
    """Addresses waiting for a thread, given out so that no host has more than ``per_host`` at a time."""

    def __init__(self, numbered: Sequence[tuple[int, str]], per_host: int) -> None:
        self._per_host = per_host
        self._waiting: dict[str, collections.deque[tuple[int, str]]] = collections.defaultdict(collections.deque)
        for number, url in numbered:
            self._waiting[host_of(url)].append((number, url))
        self._free = collections.deque(self._waiting)
        self._active: collections.Counter[str] = collections.Counter()
        self._contacts: collections.Counter[Origin] = collections.Counter()
        self._unreached: collections.Counter[Origin] = collections.Counter()
        self._changed = threading.Condition()

    def take(self) -> "_Taken | None":
        """Wait for an address that may be fetched now; return None when all have been given out."""
        with self._changed:
            while not self._free and self._waiting:
                self._changed.wait()
            if not self._free:
                return None
            host = self._free.popleft()
            number, url = self._waiting[host].popleft()
            self._active[host] += 1
            if not self._waiting[host]:
                del self._waiting[host]
                if not self._waiting:
                    self._changed.notify_all()
            elif self._active[host] < self._per_host:
                self._free.append(host)
            return _Taken(number, url, self._contacts[origin_of(url)])

    def finish(self, taken: "_Taken", found: bytes | ItemFault) -> list[Fetched]:
        """Let the host have another connection; return what is not tried, as the host is away, with its fault."""
        host, origin = host_of(taken.url), origin_of(taken.url)
        with self._changed:
            given_up = self._give_up(host, origin) if self._is_away(taken, origin, found) else []
            was_full = self._active[host] == self._per_host
            self._active[host] -= 1
            if was_full and host in self._waiting:
                self._free.append(host)
                self._changed.notify()
        return [(number, found) for number in given_up if isinstance(found, ItemFault)]

    def _is_away(self, taken: "_Taken", origin: Origin, found: bytes | ItemFault) -> bool:
        """Count attempts without a connection since the last one that was made, of those begun after it."""
        if not (isinstance(found, FetchFault) and found.is_unreached):
            self._contacts[origin] += 1
            self._unreached[origin] = 0
            return False
        self._unreached[origin] += taken.contacts == self._contacts[origin]
        return self._unreached[origin] >= MOST_UNREACHED

    def _give_up(self, host: str, origin: Origin) -> list[int]:
        """Take out what waits for a host that is away, and return its numbers."""
        if host not in self._waiting:
            return []
        given_up = [number for number, url in self._waiting[host] if origin_of(url) == origin]
        left = [(number, url) for number, url in self._waiting[host] if origin_of(url) != origin]
        self._waiting[host] = collections.deque(left)
        if not left:
            del self._waiting[host]
            with contextlib.suppress(ValueError):
                self._free.remove(host)
            if not self._waiting:
                self._changed.notify_all()
        return given_up

    def clear(self) -> None:
        """Give out nothing more."""
        with self._changed:
            self._waiting.clear()
            self._free.clear()
            self._changed.notify_all()


def fetch_all(fetch: Callable[[str], bytes], urls: Sequence[str], config: DownloadShardsConfig) -> Iterator[Fetched]:
    """Yield (index, content or fault) once for each address, in order of arrival.

    Transient faults are retried after all other addresses. Addresses that never finish (a name server may hang) are
    given up as stalled.
    """
    left = list(enumerate(urls))
    for attempt in range(config.retries + 1):
        if attempt and left:
            time.sleep(config.retry_wait * 2 ** (attempt - 1))
        failed: list[tuple[int, str]] = []
        for number, found in _one_round(fetch, left, config):
            if isinstance(found, FetchFault) and found.transient and attempt < config.retries:
                failed.append((number, urls[number]))
            else:
                yield number, found
        left = sorted(failed)


def _one_round(
    fetch: Callable[[str], bytes], numbered: Sequence[tuple[int, str]], config: DownloadShardsConfig
) -> Iterator[Fetched]:
    waiting = _HostQueue(numbered, config.per_host)
    results: queue.Queue[Fetched] = queue.Queue(2 * config.threads)
    closed = threading.Event()

    def work() -> None:
        while (taken := waiting.take()) is not None:
            found = _attempt(fetch, taken.url)
            for result in ((taken.number, found), *waiting.finish(taken, found)):
                put(result)

    def put(result: Fetched) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                results.put(result, timeout=_POLL_SECONDS)
                return

    missing = {number for number, _ in numbered}
    for index in range(min(config.threads, len(numbered))):
        threading.Thread(target=work, name=f"download-{index}", daemon=True).start()
    whole = Countdown(_round_seconds([url for _, url in numbered], config))
    try:
        while missing:
            result = _next_of(results, whole, Countdown(2 * config.max_seconds))
            missing.discard(result[0])
            yield result
    except queue.Empty:
        for number in sorted(missing):
            yield number, ItemFault(FailureCause.STALLED, "stalled: given up by the watchdog")
    finally:
        closed.set()
        waiting.clear()


def _next_of(results: "queue.Queue[Fetched]", *countdowns: Countdown) -> Fetched:
    """Return the next result, or raise queue.Empty once one of the times is over."""
    while True:
        try:
            return results.get(timeout=max(_POLL_SECONDS, min(one.next_wait() for one in countdowns)))
        except queue.Empty:
            if not all(one.left() for one in countdowns):
                raise


def _attempt(fetch: Callable[[str], bytes], url: str) -> bytes | ItemFault:
    try:
        return fetch(url)
    except FetchFault as fault:
        return fault
    except Exception as error:  # noqa: BLE001  one address must not end the shard; it is counted with the error's name
        return ItemFault(FailureCause.OTHER, f"network error: {type(error).__name__}")


def _round_seconds(urls: Sequence[str], config: DownloadShardsConfig) -> float:
    """Return an upper bound for a round in which every address takes all its time, by the threads and by the hosts."""
    fullest = max(collections.Counter(map(host_of, urls)).values(), default=0)
    turns = math.ceil(len(urls) / config.threads) + math.ceil(fullest / config.per_host)
    return (turns + 1) * config.max_seconds
