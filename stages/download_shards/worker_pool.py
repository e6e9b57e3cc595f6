"""Work through addresses with threads: few at a time at each host, failed ones again, never waiting for ever."""

import collections
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stages.download_shards.fetch import FetchError, host_of

Answer = tuple[int, bytes | None, str | None]
_STALLED = "stalled: given up by the watchdog"
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class PoolLimits:
    """How many at a time, how often, how long."""

    threads: int
    per_host: int
    """Connections at a time to one host."""
    retries: int
    retry_wait: float
    """Seconds before the first further attempt; twice as many before each one after it."""
    max_seconds: float
    """Seconds that one address may take."""


class _HostQueue:
    """Addresses waiting for a thread, handed out so that no host has more than its share at a time."""

    def __init__(self, numbered: Sequence[tuple[int, str]], per_host: int) -> None:
        self._per_host = per_host
        self._waiting: dict[str, collections.deque[tuple[int, str]]] = collections.defaultdict(collections.deque)
        for number, url in numbered:
            self._waiting[host_of(url)].append((number, url))
        self._free = collections.deque(self._waiting)
        self._active: collections.Counter[str] = collections.Counter()
        self._changed = threading.Condition()

    def take(self) -> tuple[int, str] | None:
        """Wait for an address that may be fetched now; none when all have been handed out."""
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
            return number, url

    def finish(self, url: str) -> None:
        """Give the host's place back."""
        host = host_of(url)
        with self._changed:
            was_full = self._active[host] == self._per_host
            self._active[host] -= 1
            if was_full and host in self._waiting:
                self._free.append(host)
                self._changed.notify()

    def clear(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._waiting.clear()
            self._free.clear()
            self._changed.notify_all()


def fetch_all(fetch: Callable[[str], bytes], urls: Sequence[str], limits: PoolLimits) -> Iterator[Answer]:
    """Yield (position, content, error) once for each address, in the order in which they come in.

    Addresses that fail for what may pass are tried again, all others being done. Where nothing moves any more (a name
    server may hang), those left over are given up as stalled.
    """
    left = list(enumerate(urls))
    for attempt in range(limits.retries + 1):
        if attempt and left:
            time.sleep(limits.retry_wait * 2 ** (attempt - 1))
        failed: list[tuple[int, str]] = []
        for number, content, error in _one_round(fetch, left, limits):
            if error is not None and error.transient and attempt < limits.retries:
                failed.append((number, urls[number]))
            else:
                yield number, content, None if error is None else str(error)
        left = sorted(failed)


def _one_round(
    fetch: Callable[[str], bytes], numbered: Sequence[tuple[int, str]], limits: PoolLimits
) -> Iterator[tuple[int, bytes | None, FetchError | None]]:
    waiting = _HostQueue(numbered, limits.per_host)
    answers: queue.Queue[tuple[int, bytes | None, FetchError | None]] = queue.Queue(2 * limits.threads)
    closed = threading.Event()

    def work() -> None:
        while (taken := waiting.take()) is not None:
            number, url = taken
            answer = (number, *_attempt(fetch, url))
            waiting.finish(url)
            while not closed.is_set():
                try:
                    answers.put(answer, timeout=_POLL_SECONDS)
                    break
                except queue.Full:
                    continue

    open_numbers = {number for number, _ in numbered}
    for index in range(min(limits.threads, len(numbered))):
        threading.Thread(target=work, name=f"download-{index}", daemon=True).start()
    deadline = time.monotonic() + _round_seconds([url for _, url in numbered], limits)
    try:
        while open_numbers:
            patience = min(2 * limits.max_seconds, deadline - time.monotonic())
            answer = answers.get(timeout=max(patience, _POLL_SECONDS))
            open_numbers.discard(answer[0])
            yield answer
    except queue.Empty:
        for number in sorted(open_numbers):
            yield number, None, FetchError(_STALLED)
    finally:
        closed.set()
        waiting.clear()


def _attempt(fetch: Callable[[str], bytes], url: str) -> tuple[bytes | None, FetchError | None]:
    try:
        return fetch(url), None
    except FetchError as error:
        return None, error
    except Exception as error:  # noqa: BLE001  one address must not end the shard; it is counted with the error's name
        return None, FetchError(f"network error: {type(error).__name__}")


def _round_seconds(urls: Sequence[str], limits: PoolLimits) -> float:
    """Bound the time of a round in which every address takes all its time: by the threads, and by the fullest host."""
    fullest = max(collections.Counter(map(host_of, urls)).values(), default=0)
    turns = math.ceil(len(urls) / limits.threads) + math.ceil(fullest / limits.per_host)
    return (turns + 1) * limits.max_seconds
